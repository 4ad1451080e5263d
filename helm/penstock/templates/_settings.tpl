{{- /*
The settings file. What the chart knows by itself (addresses of bundled servers, where Secrets are mounted) lies below
what the user says; an empty value counts as not said.
*/ -}}

{{- define "penstock.settings.derived" -}}
s3:
  endpoint: {{ ternary (include "penstock.url.minio" .) "" .Values.bundled.minio.enabled | quote }}
  credentials_dir: /etc/penstock/s3
  {{- if .Values.trust.s3 }}
  ca_file: /etc/penstock/trust/s3/ca.crt
  {{- end }}
kafka:
  {{- if and .Values.bundled.kafka.enabled (ne .Values.mode "edge") }}
  servers: {{ include "penstock.fullname" . }}-kafka.{{ .Release.Namespace }}.svc:9092
  {{- end }}
  {{- if include "penstock.hasKafkaPassword" . }}
  password_file: /etc/penstock/kafka/password
  {{- end }}
  {{- if .Values.trust.kafka }}
  ca_file: /etc/penstock/trust/kafka/ca.crt
  {{- end }}
kubernetes:
  namespace: {{ .Values.functions.namespace.name }}
  lease_namespace: {{ .Release.Namespace }}
state:
  data: /var/lib/penstock
service:
  listen: "0.0.0.0:9090"
http:
  listen: "0.0.0.0:8080"
  allow_remote: true
gateway:
  credentials_dir: /etc/penstock/admin
  {{- if and .Values.scaler.enabled (ne .Values.mode "edge") }}
  scaler: http://{{ include "penstock.fullname" . }}-scaler.{{ .Release.Namespace }}.svc:9092
  scaler_token_file: /etc/penstock/scaler/token
  {{- end }}
jobs:
  sidecar_image: {{ include "penstock.image" . }}
  sidecar_pull_policy: {{ .Values.image.pullPolicy }}
  service_account: {{ include "penstock.fullname" . }}-job
  pull_secrets: {{ join "," .Values.image.pullSecrets | quote }}
  restricted: {{ eq .Values.functions.namespace.podSecurity "restricted" }}
{{- if .Values.scaler.enabled }}
scaler:
  pools: /etc/penstock/pools/pools.yaml
  state: {{ include "penstock.fullname" . }}-scaler-state
  listen: "0.0.0.0:9092"
  token_file: /etc/penstock/scaler/token
{{- end }}
notify:
  listen: "0.0.0.0:9091"
  path: /events
  token_file: /etc/penstock/webhook/token
  {{- if .Values.bundled.minio.enabled }}
  quick_arn: arn:minio:sqs::PENSTOCKQUICK:webhook
  {{- end }}
{{- end -}}

{{- define "penstock.settings" -}}
{{- $derived := include "penstock.settings.derived" . | fromYaml -}}
{{- range $group, $fields := .Values.settings -}}
{{- $known := default dict (get $derived $group) -}}
{{- range $name, $value := $fields -}}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "string" $value) (eq $value ""))) -}}
{{- $_ := set $known $name $value -}}
{{- end -}}
{{- end -}}
{{- $_ := set $derived $group $known -}}
{{- end -}}
{{- toJson $derived -}}
{{- end -}}

{{- /* JSON's words for text, numbers, truth and lists are TOML's too; only tables are written otherwise. */ -}}
{{- define "penstock.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true }}{{ range $name, $value := . }}{{ if not $first }}, {{ end }}{{ $first = false }}{{ toJson $name }} = {{ include "penstock.toml.value" $value }}{{ end -}} }
{{- else if kindIs "slice" . -}}
[{{ range $number, $value := . }}{{ if $number }}, {{ end }}{{ include "penstock.toml.value" $value }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{- define "penstock.toml" -}}
{{- range $group, $fields := (include "penstock.settings" . | fromJson) }}
{{- if $fields }}
[{{ $group }}]
{{- range $name, $value := $fields }}
{{- if ne (toJson $value) "\"\"" }}
{{ $name }} = {{ include "penstock.toml.value" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end -}}

{{- /* What no schema can say: values that are needed only in the absence of others. One sentence each, by name. */ -}}
{{- define "penstock.check" -}}
{{- $settings := include "penstock.settings" . | fromJson -}}
{{- if not $settings.s3.endpoint -}}
{{- fail "settings.s3.endpoint is missing: give http[s]://HOST[:PORT] of the object store, or set bundled.minio.enabled=true for a trial" -}}
{{- end -}}
{{- if and (eq .Values.mode "services") (not $settings.kafka.servers) -}}
{{- fail "settings.kafka.servers is missing: give HOST:PORT of Kafka, set bundled.kafka.enabled=true for a trial, or mode=edge, which needs none" -}}
{{- end -}}
{{- if and (eq .Values.mode "edge") $settings.kafka.servers -}}
{{- fail "settings.kafka.servers is set in mode edge, whose log is a file: use mode=services, or leave it empty" -}}
{{- end -}}
{{- if and (not .Values.bundled.minio.enabled) (not .Values.secrets.s3.existingSecret) -}}
{{- if not (and .Values.secrets.s3.accessKey .Values.secrets.s3.secretKey) -}}
{{- fail "secrets.s3.existingSecret is missing: name a Secret with the keys access_key and secret_key of the object store, or give secrets.s3.accessKey and secrets.s3.secretKey" -}}
{{- end -}}
{{- end -}}
{{- if and (get $settings.kafka "username") (not (include "penstock.hasKafkaPassword" .)) -}}
{{- fail "secrets.kafka.existingSecret is missing: settings.kafka.username is given, so name a Secret with the key password" -}}
{{- end -}}
{{- if eq .Values.functions.namespace.name .Release.Namespace -}}
{{- fail "functions.namespace.name is the release's own namespace: functions need one with nothing else in it" -}}
{{- end -}}
{{- if and .Values.scaler.enabled (not .Values.scaler.pools) -}}
{{- fail "scaler.pools is missing: scaler.enabled is true, so say which nodes there are to switch (docs/operations/scaler.md)" -}}
{{- end -}}
{{- with .Values.gateway.ingress -}}
{{- if and .enabled (not .host) -}}
{{- fail "gateway.ingress.host is missing: gateway.ingress.enabled is true, so say under which name users reach it" -}}
{{- end -}}
{{- if and .enabled .tls.enabled (not .tls.secretName) -}}
{{- fail "gateway.ingress.tls.secretName is missing: name the Secret with the certificate (or the one that cert-manager shall make)" -}}
{{- end -}}
{{- end -}}
{{- end -}}
