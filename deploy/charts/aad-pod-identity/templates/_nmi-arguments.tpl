{{- define "aad-pod-identity.nmi.startSignal" -}}
/tmp/started
{{- end -}}

{{- /* "true" if NMI's rules remain when it stops. Without rules, a policy of Cilium has this effect, or nothing. */ -}}
{{- define "aad-pod-identity.nmi.failClosed" -}}
{{- $flags := default list .Values.nmi.extraArgs -}}
{{- $ruled := not (or (has .Values.nmi.redirect.backend (list "cilium" "none")) (has "--redirect=none" $flags) (has "--redirect=cilium" $flags)) -}}
{{- if and .Values.nmi.failClosed $ruled -}}true{{- end -}}
{{- end -}}

{{- define "aad-pod-identity.nmi.arguments" -}}
- --node=$(NODE_NAME)
{{- $flags := list
  (list "http-probe-port" .Values.nmi.probePort)
  (list "ipt-update-interval-sec" .Values.nmi.ipTableUpdateTimeIntervalInSeconds)
  (list "MICNamespace" (default (ternary "" .Release.Namespace (eq .Release.Namespace "default")) .Values.nmi.micNamespace))
  (list "retry-attempts-for-created" .Values.nmi.retryAttemptsForCreated)
  (list "retry-attempts-for-assigned" .Values.nmi.retryAttemptsForAssigned)
  (list "find-identity-retry-interval" .Values.nmi.findIdentityRetryIntervalInSeconds)
  (list "enableScaleFeatures" (toString .Values.nmi.enableScaleFeatures))
  (list "prometheus-port" .Values.nmi.prometheusPort)
  (list "block-instance-metadata" .Values.nmi.blockInstanceMetadata)
  (list "metadata-cache" .Values.nmi.metadataCache)
  (list "metadata-header-required" (toString .Values.nmi.metadataHeaderRequired))
  (list "log-format" .Values.nmi.loggingFormat)
  (list "v" .Values.nmi.logVerbosity)
  (list "operation-mode" .Values.operationMode)
  (list "forceNamespaced" (ternary "true" "" (eq .Values.operationMode "managed")))
  (list "allow-network-plugin-kubenet" .Values.nmi.allowNetworkPluginKubenet)
  (list "kubelet-config" .Values.nmi.kubeletConfig)
  (list "ca-bundle" (include "aad-pod-identity.caBundle.path" .))
  (list "custom-user-agent" .Values.customUserAgent)
  (list "set-retry-after-header" .Values.nmi.setRetryAfterHeader)
  (list "enable-conntrack-deletion" .Values.nmi.enableConntrackDeletion)
  (list "redirect" (ternary "" .Values.nmi.redirect.backend (eq .Values.nmi.redirect.backend "auto")))
  (list "redirect-target" (ternary "" .Values.nmi.redirect.target (eq .Values.nmi.redirect.target "auto")))
  (list "fail-closed" (include "aad-pod-identity.nmi.failClosed" .))
  (list "handover-socket" (ternary "/run/aad-pod-identity/nmi.sock" "" .Values.nmi.handover.enabled))
  (list "start-signal" (ternary (include "aad-pod-identity.nmi.startSignal" .) "" .Values.nmi.handover.enabled))
  (list "route-localnet" (ternary "set" "" (eq .Values.nmi.routeLocalnet "set")))
  (list "address-evidence" (ternary "false" "" (eq (include "aad-pod-identity.nmi.ownNetwork" .) "true")))
  (list "allowed-ad-endpoints" (join "," .Values.nmi.allowedADEndpoints))
  (list "allow-cross-namespace-secrets" .Values.nmi.allowCrossNamespaceSecrets)
  (list "allow-metadata-path" (join "," .Values.nmi.allowedMetadataPaths))
  (list "exception-namespaces" (join "," .Values.nmi.exceptionNamespaces))
  (list "federated-identities" (ternary "true" "" (eq .Values.federated.enabled true)))
  (list "federated-audience" (ternary .Values.federated.audience "" (eq .Values.federated.enabled true)))
  (list "federated-exchange" (ternary "identityBindings" "" (and .Values.federated.enabled (eq .Values.federated.exchange "identityBindings"))))
  (list "federated-exchange-annotation" (ternary "true" "" (and .Values.federated.enabled .Values.federated.exchangeAnnotation)))
}}
{{- include "aad-pod-identity.flags" $flags }}
{{- range .Values.nmi.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* The Go implementation's values.yaml has an empty list, with which pods on nodes with taints would get the node's own
       identities. */ -}}
{{- define "aad-pod-identity.nmi.tolerations" -}}
{{- $all := dict "operator" "Exists" -}}
{{- $tolerations := default (list $all) .Values.nmi.tolerations -}}
{{- if not (has $all $tolerations) -}}
{{- $tolerations = concat $tolerations (include "aad-pod-identity.startup.tolerations" . | fromYamlArray) -}}
{{- end -}}
{{ toYaml $tolerations }}
{{- end -}}
