{{- /* Federated identities: names that the roles and the policy share, and checks of the values. */ -}}

{{- define "aad-pod-identity.federated.name" -}}
{{- include "aad-pod-identity.fullname" . | trunc 53 | trimSuffix "-" }}-federated
{{- end -}}

{{- /* "true" if NMI uses the token proxy of AKS identity bindings. */ -}}
{{- define "aad-pod-identity.federated.binds" -}}
{{- if and .Values.federated.enabled (or (eq .Values.federated.exchange "identityBindings") .Values.federated.exchangeAnnotation) -}}true{{- end -}}
{{- end -}}

{{- /* "true" if NMI's pods need the variables of AKS's webhook. */ -}}
{{- define "aad-pod-identity.federated.webhook" -}}
{{- if and (include "aad-pod-identity.federated.binds" .) (not .Values.federated.identityBindings.tokenProxy) -}}true{{- end -}}
{{- end -}}

{{- /* The audiences of the tokens that NMI may request, each alone, as a YAML list. */ -}}
{{- define "aad-pod-identity.federated.audiences" -}}
{{- $audiences := list -}}
{{- if or (eq .Values.federated.exchange "direct") .Values.federated.exchangeAnnotation -}}
{{- $audiences = append $audiences .Values.federated.audience -}}
{{- end -}}
{{- if include "aad-pod-identity.federated.binds" . -}}
{{- $audiences = append $audiences "api://AKSIdentityBinding" -}}
{{- end -}}
{{ toYaml (uniq $audiences) }}
{{- end -}}

{{- define "aad-pod-identity.federated.variables" -}}
{{- $proxy := .Values.federated.identityBindings -}}
{{- if and (include "aad-pod-identity.federated.binds" .) $proxy.tokenProxy -}}
- name: AZURE_KUBERNETES_TOKEN_PROXY
  value: {{ $proxy.tokenProxy | quote }}
{{- with $proxy.serverName }}
- name: AZURE_KUBERNETES_SNI_NAME
  value: {{ . | quote }}
{{- end }}
{{- with $proxy.caFile }}
- name: AZURE_KUBERNETES_CA_FILE
  value: {{ . | quote }}
{{- end }}
{{- with $proxy.caData }}
- name: AZURE_KUBERNETES_CA_DATA
  value: {{ . | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.federated.checked" -}}
{{- $said := "federated.enabled is true, but" -}}
{{- if not .Values.rbac.enabled -}}
{{- fail (printf "%s rbac.enabled is false: set it to true, because the permissions of NMI are granted to, and limited for, a separate service account" $said) -}}
{{- end -}}
{{- if not (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "%s this is Kubernetes %s: use 1.30 or newer, where a ValidatingAdmissionPolicy limits the tokens that NMI may request, or set federated.enabled to false (helm template takes the version from --kube-version)" $said .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- /* Only a cluster lists its kinds; without one (helm template) only the version is checked. */ -}}
{{- if and (.Capabilities.APIVersions.Has "v1/Pod") (not (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy")) -}}
{{- fail (printf "%s this API server has no admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy, which limits the tokens that NMI may request: enable it (--runtime-config of kube-apiserver), or set federated.enabled to false" $said) -}}
{{- end -}}
{{- if not .Values.federated.namespaces -}}
{{- fail (printf "%s federated.namespaces is empty: list the namespaces whose pods use federated identities, each as `name: …`" $said) -}}
{{- end -}}
{{- if include "aad-pod-identity.federated.binds" . -}}
{{- $proxy := .Values.federated.identityBindings -}}
{{- if and (not $proxy.tokenProxy) (or $proxy.serverName $proxy.caFile $proxy.caData) -}}
{{- fail "federated.identityBindings has serverName, caFile or caData, but no tokenProxy: set tokenProxy, or remove them to use the variables of AKS's webhook" -}}
{{- end -}}
{{- if and $proxy.tokenProxy (or (and $proxy.caFile $proxy.caData) (not (or $proxy.caFile $proxy.caData))) -}}
{{- fail "federated.identityBindings.tokenProxy needs exactly one of caFile and caData: set the authority that NMI trusts for the proxy" -}}
{{- end -}}
{{- $own := include "aad-pod-identity.nmi.fullname" . -}}
{{- range $permission := $proxy.permissions -}}
{{- range .subjects -}}
{{- if and (eq .namespace $.Release.Namespace) (eq (default $own .serviceAccount) $own) -}}
{{- fail (printf "federated.identityBindings.permissions lets NMI's own service account %s/%s use %s, so that a stolen token of NMI could use it: name the service accounts of the pods in this namespace one by one, without NMI's" .namespace $own $permission.clientID) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.federated.namespaces -}}
{{- if has .name $names -}}
{{- fail (printf "federated.namespaces lists %s twice: write one entry with the service accounts of both" .name) -}}
{{- end -}}
{{- if and (hasKey . "serviceAccounts") (not .serviceAccounts) -}}
{{- fail (printf "the serviceAccounts of %s in federated.namespaces are an empty list: name the service accounts, or remove the key to allow all of the namespace" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
