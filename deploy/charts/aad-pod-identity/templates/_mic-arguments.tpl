{{- define "aad-pod-identity.mic.arguments" -}}
{{- if not .Values.adminsecret }}
- {{ printf "--cloudconfig=%s" .Values.mic.cloudConfig | quote }}
{{- end }}
- --logtostderr
{{- $nmi := printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s,app.kubernetes.io/component=nmi" (include "aad-pod-identity.name" .) .Release.Name }}
{{- $flags := list
  (list "log-format" .Values.mic.loggingFormat)
  (list "v" .Values.mic.logVerbosity)
  (list "leader-election-instance" .Values.mic.leaderElection.instance)
  (list "leader-election-namespace" .Values.mic.leaderElection.namespace)
  (list "leader-election-name" .Values.mic.leaderElection.name)
  (list "leader-election-duration" .Values.mic.leaderElection.duration)
  (list "http-probe-port" .Values.mic.probePort)
  (list "createDeleteBatch" .Values.mic.createDeleteBatch)
  (list "clientQps" .Values.mic.clientQps)
  (list "immutable-user-msis" (join "," .Values.mic.immutableUserMSIs))
  (list "allowed-resource-groups" (join "," .Values.mic.allowedResourceGroups))
  (list "assign-cluster-identity" .Values.mic.assignClusterIdentity)
  (list "prometheus-port" .Values.mic.prometheusPort)
  (list "syncRetryDuration" .Values.mic.syncRetryDuration)
  (list "update-user-msi-max-retry" .Values.mic.updateUserMSIMaxRetry)
  (list "update-user-msi-retry-interval" .Values.mic.updateUserMSIRetryInterval)
  (list "identity-assignment-reconcile-interval" .Values.mic.identityAssignmentReconcileInterval)
  (list "ca-bundle" (include "aad-pod-identity.caBundle.path" .))
  (list "custom-user-agent" .Values.customUserAgent)
  (list "startup-taint" .Values.mic.startupTaint)
  (list "startup-taint-nmi-selector" (ternary $nmi "" (not (empty .Values.mic.startupTaint))))
}}
{{- include "aad-pod-identity.flags" $flags }}
{{- range .Values.mic.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* A line for each (list NAME VALUE) whose value is not empty. */ -}}
{{- define "aad-pod-identity.flags" -}}
{{- range . }}
{{- if index . 1 }}
- {{ printf "%s%s=%s" (ternary "-" "--" (eq (index . 0) "v")) (index . 0) (include "aad-pod-identity.text" (index . 1)) | quote }}
{{- end }}
{{- end }}
{{- end -}}
