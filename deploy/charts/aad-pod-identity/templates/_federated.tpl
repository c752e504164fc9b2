{{- /* Federated identities: names that the roles and the policy share, and checks of the values. */ -}}

{{- define "aad-pod-identity.federated.name" -}}
{{- include "aad-pod-identity.fullname" . | trunc 53 | trimSuffix "-" }}-federated
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
