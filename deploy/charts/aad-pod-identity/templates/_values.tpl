{{- /* Defaults for missing values: `helm upgrade --reuse-values` uses the values of an older chart, or of the Go
       implementation's, instead of values.yaml, and an empty key (`mic.customCloud:`) removes a default. Each template
       begins with this. Lists and maps that may be missing are not here. */ -}}
{{- define "aad-pod-identity.complete" -}}
{{- include "aad-pod-identity.complete.map" (list .Values (include "aad-pod-identity.missing" . | fromYaml)) -}}
{{- end -}}

{{- define "aad-pod-identity.complete.map" -}}
{{- $there := index . 0 -}}
{{- range $name, $value := index . 1 -}}
{{- if kindIs "invalid" (index $there $name) -}}
{{- $_ := set $there $name $value -}}
{{- else if kindIs "map" $value -}}
{{- include "aad-pod-identity.complete.map" (list (index $there $name) $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The defaults of values.yaml; a test compares them. */ -}}
{{- define "aad-pod-identity.missing" -}}
image:
  repository: ""
  imagePullPolicy: IfNotPresent
forceNamespaced: "false"
operationMode: standard
caBundle:
  key: ca.crt
customCloud:
  key: environment.json
mic:
  image: mic
  priorityClassName: system-cluster-critical
  replicas: 2
  cloudConfig: /etc/kubernetes/azure.json
  leaderElection: {}
  customCloud:
    enabled: false
    configPath: /etc/kubernetes/akscustom.json
nmi:
  image: nmi
  priorityClassName: system-node-critical
  probePort: "8085"
  enableScaleFeatures: true
  metadataHeaderRequired: true
  kubeletConfig: /etc/default/kubelet
  failClosed: true
  handover:
    enabled: true
  minReadySeconds: 0
  bootGuard: false
  redirect:
    backend: auto
    target: auto
  routeLocalnet: check
  servicePrincipals: auto
  seccompProfile: RuntimeDefault
rbac:
  enabled: true
  allowAccessToSecrets: true
federated:
  enabled: false
  audience: api://AzureADTokenExchange
  exchange: direct
  exchangeAnnotation: false
  identityBindings:
    tokenProxy: ""
    serverName: ""
    caFile: ""
    caData: ""
podMonitor:
  interval: 5m
  scrapeTimeout: 30s
serviceMonitor:
  interval: 1m
  scrapeTimeout: 30s
prometheusRule:
  runbookBaseURL: ""
grafanaDashboard:
  labels:
    grafana_dashboard: "1"
networkPolicy: {}
namespace:
  podSecurityLabels:
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/audit: privileged
    pod-security.kubernetes.io/warn: privileged
crds:
  upgrade: true
test:
  image: demo
{{- end -}}
