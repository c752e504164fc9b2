{{- /* Action for the boot guard on each node: "install", "remove" if an earlier revision of this release installed it, or
       "". The annotation of the DaemonSet in the cluster records that; `helm template` cannot read it. */ -}}
{{- define "aad-pod-identity.nmi.bootGuard" -}}
{{- if .Values.nmi.bootGuard -}}
install
{{- else -}}
{{- $there := lookup "apps/v1" "DaemonSet" .Release.Namespace (include "aad-pod-identity.nmi.fullname" .) -}}
{{- if $there -}}
{{- if hasKey (default dict $there.metadata.annotations) "aadpodidentity.k8s.io/boot-guard" -}}remove{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.bootGuard.mount" -}}
- name: systemd
  mountPath: /host/etc/systemd/system
{{- end -}}

{{- define "aad-pod-identity.bootGuard.volume" -}}
- name: systemd
  hostPath:
    path: /etc/systemd/system
    type: Directory
{{- end -}}
