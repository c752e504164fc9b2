{{- /* Private clouds and authorities: the values customCloud and caBundle, for NMI, MIC and the test pod. */ -}}

{{- /* The one source that a value has, as the name of the key: (list "caBundle" .Values.caBundle (list "configMap" "secret")).
       Empty without a source. */ -}}
{{- define "aad-pod-identity.source" -}}
{{- $name := index . 0 -}}
{{- $value := index . 1 -}}
{{- $given := list -}}
{{- range index . 2 -}}
{{- if index $value . -}}
{{- $given = append $given . -}}
{{- end -}}
{{- end -}}
{{- if gt (len $given) 1 -}}
{{- fail (printf "%s has %s, of which only one can be used: remove the others" $name (join " and " $given)) -}}
{{- end -}}
{{- with $given -}}{{ first . }}{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.caBundle.source" -}}
{{- $source := include "aad-pod-identity.source" (list "caBundle" .Values.caBundle (list "configMap" "secret" "hostPath" "pem")) -}}
{{- if eq $source "pem" -}}
{{- if contains "PRIVATE KEY-----" .Values.caBundle.pem -}}
{{- fail "caBundle.pem contains a private key, which everyone who can read the ConfigMap or helm's release would have: remove it, replace the key, and give the certificates of the authorities only" -}}
{{- end -}}
{{- if not (contains "-----BEGIN CERTIFICATE-----" .Values.caBundle.pem) -}}
{{- fail "caBundle.pem contains no certificate: give the authorities' certificates as PEM text (-----BEGIN CERTIFICATE-----), with `helm --set-file caBundle.pem=FILE` for example" -}}
{{- end -}}
{{- end -}}
{{- $source -}}
{{- end -}}

{{- define "aad-pod-identity.caBundle.name" -}}
{{- include "aad-pod-identity.name" . }}-ca-bundle
{{- end -}}

{{- /* The path of the bundle in a container; empty without one. */ -}}
{{- define "aad-pod-identity.caBundle.path" -}}
{{- with include "aad-pod-identity.caBundle.source" . -}}
/etc/aad-pod-identity/ca/{{ if has . (list "configMap" "secret") }}{{ $.Values.caBundle.key }}{{ else }}ca.crt{{ end }}
{{- end -}}
{{- end -}}

{{- /* The directory of a ConfigMap or Secret, not its file (subPath), so that the kubelet updates it. */ -}}
{{- define "aad-pod-identity.caBundle.mount" -}}
{{- with include "aad-pod-identity.caBundle.source" . -}}
- name: ca-bundle
  mountPath: {{ ternary (include "aad-pod-identity.caBundle.path" $) "/etc/aad-pod-identity/ca" (eq . "hostPath") }}
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.caBundle.volume" -}}
{{- with include "aad-pod-identity.caBundle.source" . -}}
- name: ca-bundle
  {{- if eq . "hostPath" }}
  hostPath:
    path: {{ $.Values.caBundle.hostPath | quote }}
    type: File
  {{- else if eq . "secret" }}
  secret:
    secretName: {{ $.Values.caBundle.secret | quote }}
  {{- else }}
  configMap:
    name: {{ ternary $.Values.caBundle.configMap (include "aad-pod-identity.caBundle.name" $) (eq . "configMap") | quote }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.customCloud.source" -}}
{{- $source := include "aad-pod-identity.source" (list "customCloud" .Values.customCloud (list "configMap" "hostPath" "environment")) -}}
{{- if and $source (eq .Values.operationMode "standard") -}}
{{- if .Values.mic.customCloud.enabled -}}
{{- fail (printf "customCloud.%s and mic.customCloud.enabled both describe the cloud to MIC: remove mic.customCloud, which is for MIC only" $source) -}}
{{- end -}}
{{- with .Values.adminsecret -}}
{{- $cloud := default "" (default .cloud .Cloud) -}}
{{- if ne (lower $cloud) "azurestackcloud" -}}
{{- fail (printf "customCloud.%s is set, but adminsecret.cloud is %s, so MIC would not use it: set adminsecret.cloud to AzureStackCloud, or remove customCloud" $source (default "empty" $cloud)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $source "environment" -}}
{{- range $key := list "activeDirectoryEndpoint" "resourceManagerEndpoint" -}}
{{- if not (hasPrefix "https://" (toString (default "" (index $.Values.customCloud.environment $key)))) -}}
{{- fail (printf "customCloud.environment.%s is not an https URL: NMI and MIC need activeDirectoryEndpoint and resourceManagerEndpoint of the cloud (az cloud show)" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $source -}}
{{- end -}}

{{- define "aad-pod-identity.customCloud.name" -}}
{{- include "aad-pod-identity.name" . }}-cloud
{{- end -}}

{{- define "aad-pod-identity.customCloud.path" -}}
{{- with include "aad-pod-identity.customCloud.source" . -}}
/etc/aad-pod-identity/cloud/{{ if eq . "configMap" }}{{ $.Values.customCloud.key }}{{ else }}environment.json{{ end }}
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.customCloud.variable" -}}
{{- with include "aad-pod-identity.customCloud.path" . -}}
- name: AZURE_ENVIRONMENT_FILEPATH
  value: {{ . | quote }}
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.customCloud.mount" -}}
{{- with include "aad-pod-identity.customCloud.source" . -}}
- name: custom-cloud
  mountPath: {{ ternary (include "aad-pod-identity.customCloud.path" $) "/etc/aad-pod-identity/cloud" (eq . "hostPath") }}
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.customCloud.volume" -}}
{{- with include "aad-pod-identity.customCloud.source" . -}}
- name: custom-cloud
  {{- if eq . "hostPath" }}
  hostPath:
    path: {{ $.Values.customCloud.hostPath | quote }}
    type: File
  {{- else }}
  configMap:
    name: {{ ternary $.Values.customCloud.configMap (include "aad-pod-identity.customCloud.name" $) (eq . "configMap") | quote }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- /* Changes with a description that the chart writes, because the programs read it at their start only. */ -}}
{{- define "aad-pod-identity.customCloud.checksum" -}}
{{- if eq (include "aad-pod-identity.customCloud.source" .) "environment" -}}
{{ .Values.customCloud.environment | toJson | sha256sum }}
{{- end -}}
{{- end -}}
