{{- /* Names, labels and the parts that several templates share. */ -}}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Objects without a namespace carry the release's, so that two installations do not meet. */ -}}
{{- define "penstock.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "penstock.fullname" .) | trunc 58 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/part-of: penstock
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end -}}

{{- define "penstock.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /* Names of the services that are installed, as a JSON list. */ -}}
{{- define "penstock.services" -}}
{{- $services := list -}}
{{- if eq .Values.mode "edge" -}}
{{- $services = list "edge" -}}
{{- else -}}
{{- range list "watcher" "dispatcher" "gateway" "scaler" -}}
{{- if (index $.Values .).enabled -}}
{{- $services = append $services . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $services -}}
{{- end -}}

{{- /* The services that answer users (REST), and the one that the object store's events go to. */ -}}
{{- define "penstock.front" -}}
{{- ternary "edge" "gateway" (eq .Values.mode "edge") -}}
{{- end -}}
{{- define "penstock.ear" -}}
{{- ternary "edge" "watcher" (eq .Values.mode "edge") -}}
{{- end -}}

{{- define "penstock.url.gateway" -}}
http://{{ include "penstock.fullname" . }}-gateway.{{ .Release.Namespace }}.svc:{{ .Values.gateway.service.port }}
{{- end -}}

{{- define "penstock.url.minio" -}}
http://{{ include "penstock.fullname" . }}-minio.{{ .Release.Namespace }}.svc:9000
{{- end -}}

{{- /* Names of the Secrets. */ -}}
{{- define "penstock.secret.s3" -}}
{{- $own := "" -}}
{{- if hasKey .root.Values.secrets.s3.perService .component -}}
{{- $own = index .root.Values.secrets.s3.perService .component -}}
{{- end -}}
{{- coalesce $own .root.Values.secrets.s3.existingSecret (printf "%s-s3" (include "penstock.fullname" .root)) -}}
{{- end -}}
{{- define "penstock.secret.kafka" -}}
{{- coalesce .Values.secrets.kafka.existingSecret (printf "%s-kafka" (include "penstock.fullname" .)) -}}
{{- end -}}
{{- define "penstock.secret.admin" -}}
{{- coalesce .Values.secrets.admin.existingSecret (printf "%s-admin" (include "penstock.fullname" .)) -}}
{{- end -}}
{{- define "penstock.secret.webhook" -}}
{{- coalesce .Values.secrets.webhook.existingSecret (printf "%s-webhook" (include "penstock.fullname" .)) -}}
{{- end -}}
{{- define "penstock.secret.scaler" -}}
{{- coalesce .Values.secrets.scaler.existingSecret (printf "%s-scaler" (include "penstock.fullname" .)) -}}
{{- end -}}
{{- define "penstock.hasKafkaPassword" -}}
{{- if or .Values.secrets.kafka.existingSecret .Values.secrets.kafka.password -}}yes{{- end -}}
{{- end -}}

{{- /* Every container of ours meets the restricted Pod Security profile, with a root file system that cannot be written. */ -}}
{{- define "penstock.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "penstock.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "penstock.priority" -}}
{{- if .Values.priorityClassName }}
priorityClassName: {{ .Values.priorityClassName }}
{{- else if .Values.priorityClass.create }}
priorityClassName: {{ include "penstock.clusterName" . }}
{{- end }}
{{- end -}}

{{- define "penstock.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "penstock.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "penstock.claimSpec" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}
