{{- /*
The pod of one service. Takes root, component, values, module (words after `python -m`), and ports (name -> number).
All services are alike but for that, so what makes them safe is written once.
*/ -}}
{{- define "penstock.pod" -}}
{{- $root := .root -}}
{{- $edge := eq .component "edge" -}}
metadata:
  labels:
    {{- include "penstock.labels" . | nindent 4 }}
    {{- with .values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/settings: {{ include "penstock.toml" $root | sha256sum }}
    {{- with .note }}
    checksum/files: {{ . }}
    {{- end }}
    {{- if and $root.Values.monitoring.annotations .ports.metrics }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ .ports.metrics | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "penstock.fullname" $root }}-{{ .component }}
  automountServiceAccountToken: true
  # Kubernetes would else put variables of the name PENSTOCK_... into the pod, which are settings to Penstock.
  enableServiceLinks: false
  terminationGracePeriodSeconds: 60
  {{- include "penstock.priority" $root | nindent 2 }}
  securityContext: {{- include "penstock.podSecurityContext" $root | nindent 4 }}
  {{- include "penstock.pullSecrets" $root | nindent 2 }}
  {{- include "penstock.placement" .values | nindent 2 }}
  {{- if and (not .values.affinity) (gt (int (default 1 .values.replicas)) 1) }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "penstock.selector" . | nindent 10 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "penstock.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [python, -m, {{ join ", " .module }}]
      env:
        - name: PENSTOCK_CONFIG
          value: /etc/penstock/settings/penstock.toml
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- range .env }}
        - {{ toJson . }}
        {{- end }}
        {{- with .values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range $name, $port := .ports }}
        - {name: {{ $name }}, containerPort: {{ $port }}}
        {{- end }}
      startupProbe:
        httpGet: {path: /health, port: {{ .probe }}}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: {{ div $root.Values.probes.startupSeconds 2 }}
      livenessProbe:
        httpGet: {path: /health, port: {{ .probe }}}
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: {{ $root.Values.probes.livenessFailures }}
      readinessProbe:
        httpGet: {path: /ready, port: {{ .probe }}}
        periodSeconds: 2
        timeoutSeconds: 5
      resources: {{- toYaml .values.resources | nindent 8 }}
      securityContext: {{- include "penstock.securityContext" $root | nindent 8 }}
      volumeMounts:
        - {name: settings, mountPath: /etc/penstock/settings, readOnly: true}
        - {name: state, mountPath: /var/lib/penstock}
        - {name: tmp, mountPath: /tmp}
        {{- range $name, $volume := .mounts }}
        - {name: {{ $name }}, mountPath: /etc/penstock/{{ $volume.path }}, readOnly: true}
        {{- end }}
        {{- with .values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap: {name: {{ include "penstock.fullname" $root }}-settings}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- if not .values.persistence.enabled }}
    - name: state
      emptyDir: {}
    {{- else if .claim }}
    - name: state
      persistentVolumeClaim: {claimName: {{ .claim }}}
    {{- end }}
    {{- range $name, $volume := .mounts }}
    - name: {{ $name }}
      {{- toYaml $volume.source | nindent 6 }}
    {{- end }}
    {{- with .values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* Secrets and certificates that a service mounts, as JSON: name -> {path, source}. */ -}}
{{- define "penstock.mounts" -}}
{{- $mounts := dict -}}
{{- $root := .root -}}
{{- if ne .component "scaler" -}}
{{- $_ := set $mounts "s3" (dict "path" "s3" "source" (dict "secret" (dict "secretName" (include "penstock.secret.s3" .) "defaultMode" 288))) -}}
{{- if $root.Values.trust.s3 -}}
{{- $_ := set $mounts "trust-s3" (dict "path" "trust/s3" "source" (dict "configMap" (dict "name" $root.Values.trust.s3))) -}}
{{- end -}}
{{- end -}}
{{- if and (include "penstock.hasKafkaPassword" $root) (ne .component "edge") -}}
{{- $_ := set $mounts "kafka" (dict "path" "kafka" "source" (dict "secret" (dict "secretName" (include "penstock.secret.kafka" $root) "defaultMode" 288))) -}}
{{- end -}}
{{- if and $root.Values.trust.kafka (ne .component "edge") -}}
{{- $_ := set $mounts "trust-kafka" (dict "path" "trust/kafka" "source" (dict "configMap" (dict "name" $root.Values.trust.kafka))) -}}
{{- end -}}
{{- if has .component (list "gateway" "edge") -}}
{{- $_ := set $mounts "admin" (dict "path" "admin" "source" (dict "secret" (dict "secretName" (include "penstock.secret.admin" $root) "defaultMode" 288))) -}}
{{- end -}}
{{- if has .component (list "watcher" "edge") -}}
{{- $_ := set $mounts "webhook" (dict "path" "webhook" "source" (dict "secret" (dict "secretName" (include "penstock.secret.webhook" $root) "defaultMode" 288))) -}}
{{- end -}}
{{- if eq .component "scaler" -}}
{{- $_ := set $mounts "pools" (dict "path" "pools" "source" (dict "configMap" (dict "name" (printf "%s-pools" (include "penstock.fullname" $root))))) -}}
{{- end -}}
{{- if and $root.Values.scaler.enabled (has .component (list "scaler" "gateway")) -}}
{{- $_ := set $mounts "scaler" (dict "path" "scaler" "source" (dict "secret" (dict "secretName" (include "penstock.secret.scaler" $root) "defaultMode" 288))) -}}
{{- end -}}
{{- toJson $mounts -}}
{{- end -}}

{{- define "penstock.statefulSet" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "penstock.fullname" .root }}-{{ .component }}
  labels: {{- include "penstock.labels" . | nindent 4 }}
spec:
  serviceName: {{ include "penstock.fullname" .root }}-{{ .component }}-pods
  replicas: {{ default 1 .values.replicas }}
  # A standby does not wait for the active one.
  podManagementPolicy: Parallel
  selector:
    matchLabels: {{- include "penstock.selector" . | nindent 6 }}
  template: {{- include "penstock.pod" . | nindent 4 }}
  {{- if .values.persistence.enabled }}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: {{ .whenDeleted }}, whenScaled: Retain}
  volumeClaimTemplates:
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: state
        labels: {{- include "penstock.selector" . | nindent 10 }}
      spec: {{- include "penstock.claimSpec" .values.persistence | nindent 8 }}
  {{- end }}
{{- end -}}

{{- define "penstock.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "penstock.fullname" .root }}-{{ .component }}
  labels: {{- include "penstock.labels" . | nindent 4 }}
spec:
  replicas: 1
  # Never two at once: there is one volume.
  strategy: {type: Recreate}
  selector:
    matchLabels: {{- include "penstock.selector" . | nindent 6 }}
  template: {{- include "penstock.pod" . | nindent 4 }}
{{- if .values.persistence.enabled }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .claim }}
  labels: {{- include "penstock.labels" . | nindent 4 }}
spec: {{- include "penstock.claimSpec" .values.persistence | nindent 2 }}
{{- end }}
{{- end -}}
