{{- /* Federated identities: what the roles and the policy share, and what is refused. */ -}}

{{- define "aad-pod-identity.federated.name" -}}
{{- include "aad-pod-identity.fullname" . | trunc 53 | trimSuffix "-" }}-federated
{{- end -}}

{{- define "aad-pod-identity.federated.checked" -}}
{{- $said := "federated.enabled is true, but" -}}
{{- if not .Values.rbac.enabled -}}
{{- fail (printf "%s rbac.enabled is false: set it to true, as what NMI may do is granted to, and limited for, a service account of its own" $said) -}}
{{- end -}}
{{- if not (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "%s this is Kubernetes %s: use 1.30 or newer, whose API server limits by a ValidatingAdmissionPolicy what tokens NMI may ask for, or set federated.enabled to false (helm template takes the version from --kube-version)" $said .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- /* Only a cluster tells kinds; without one (helm template) the version has to do. */ -}}
{{- if and (.Capabilities.APIVersions.Has "v1/Pod") (not (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy")) -}}
{{- fail (printf "%s this API server has no admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy, without which nothing limits what tokens NMI may ask for: have it served (--runtime-config of kube-apiserver), or set federated.enabled to false" $said) -}}
{{- end -}}
{{- if not .Values.federated.namespaces -}}
{{- fail (printf "%s federated.namespaces is empty: list the namespaces whose pods use federated identities, each as `name: …`" $said) -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.federated.namespaces -}}
{{- if has .name $names -}}
{{- fail (printf "federated.namespaces has %s twice: write one entry for it, with the service accounts of both" .name) -}}
{{- end -}}
{{- if and (hasKey . "serviceAccounts") (not .serviceAccounts) -}}
{{- fail (printf "the serviceAccounts of %s in federated.namespaces are an empty list: name the service accounts, or take the key away to mean every one of the namespace" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
