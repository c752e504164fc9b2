{{- /* Names and labels, equal to those of the Go implementation's chart, so that `helm upgrade` adopts its objects. */ -}}

{{- define "aad-pod-identity.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 59 | trimSuffix "-" -}}
{{- end -}}

{{- define "aad-pod-identity.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 59 | trimSuffix "-" -}}
{{- end -}}

{{- define "aad-pod-identity.mic.fullname" -}}
{{- include "aad-pod-identity.name" . }}-mic
{{- end -}}

{{- define "aad-pod-identity.nmi.fullname" -}}
{{- include "aad-pod-identity.name" . }}-nmi
{{- end -}}

{{- define "aad-pod-identity.selectors" -}}
app.kubernetes.io/name: {{ include "aad-pod-identity.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "aad-pod-identity.labels" -}}
{{ include "aad-pod-identity.selectors" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.customLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The image of one of mic, nmi and test: (list $ .Values.mic). */ -}}
{{- define "aad-pod-identity.image" -}}
{{- $root := index . 0 -}}
{{- $of := index . 1 -}}
{{- $set := "image.repository to the registry and path to which you pushed this project's images, for example registry.example/aad-pod-identity (docs/install-on-aks.md, Images, builds and pushes them)" -}}
{{- $theirs := printf "which names the Go implementation's images, which do not accept this chart's arguments: remove mic.tag and nmi.tag from your values (with --reuse-values set both to an empty text), and set %s" $set -}}
{{- if not $root.Values.image.repository -}}
{{- fail (printf "image.repository is missing: set %s" $set) -}}
{{- end -}}
{{- if regexMatch "^mcr[.](microsoft[.]com|azk8s[.]cn)/" $root.Values.image.repository -}}
{{- fail (printf "image.repository is %s, %s" $root.Values.image.repository $theirs) -}}
{{- end -}}
{{- if eq "aad-pod-identity" $root.Values.image.repository -}}
{{- fail (printf "image.repository is aad-pod-identity, a former default, which is a path of Docker Hub that this project does not own: set %s" $set) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z0-9][a-z0-9.:_/-]*[a-z0-9]$" $root.Values.image.repository) -}}
{{- fail (printf "image.repository is %s, which is no registry and path in lower case: set %s" $root.Values.image.repository $set) -}}
{{- end -}}
{{- if regexMatch "^v1[.][0-8]([.]|$)" (default "" $of.tag) -}}
{{- fail (printf "the tag of image %s is %s, %s" $of.image $of.tag $theirs) -}}
{{- end -}}
{{ $root.Values.image.repository }}/{{ $of.image }}:{{ default $root.Chart.AppVersion $of.tag }}
{{- end -}}

{{- /* A value as text: large whole numbers would be printed as 1e+06. */ -}}
{{- define "aad-pod-identity.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- /* "true" for all spellings of true: the Go implementation's values contain both true and "true". */ -}}
{{- define "aad-pod-identity.true" -}}
{{- if has (toString . | lower) (list "true" "1") -}}true{{- end -}}
{{- end -}}

{{- /* NMI's capabilities. Its rules need NET_ADMIN and NET_RAW. */ -}}
{{- define "aad-pod-identity.nmi.capabilities" -}}
{{ concat (list "NET_ADMIN" "NET_RAW") (default list .Values.nmi.extraCapabilities) | uniq | sortAlpha | toYaml }}
{{- end -}}

{{- /* NMI must run on a node before MIC removes the start-up taint, and MIC must run if all nodes have the taint. */ -}}
{{- define "aad-pod-identity.startup.tolerations" -}}
{{- if .Values.mic.startupTaint -}}
{{ toYaml (list (dict "key" .Values.mic.startupTaint "operator" "Exists")) }}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.leader.namespace" -}}
{{- default "default" .Values.mic.leaderElection.namespace -}}
{{- end -}}

{{- define "aad-pod-identity.leader.name" -}}
{{- default "aad-pod-identity-mic" .Values.mic.leaderElection.name -}}
{{- end -}}
