{{- /* A service account for the duration of a hook, with a cluster role: (list $ NAME HOOK RULES). */ -}}
{{- define "aad-pod-identity.hook.account" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $meta := include "aad-pod-identity.hook.meta" (list $root (index . 2) "-10" "hook-succeeded") -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace | quote }}
  {{- $meta | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  {{- $meta | nindent 2 }}
rules:
  {{- index . 3 | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  {{- $meta | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ $root.Release.Namespace | quote }}
{{- end -}}

{{- /* Labels and annotations of an object of a hook: (list $ HOOK WEIGHT POLICY). With hook-succeeded helm deletes
       the object when the hook is complete, and since helm 4 also if a later object of the hook fails. Do not use it for
       an object that must outlive a failure (https://github.com/helm/helm/issues/30673). */ -}}
{{- define "aad-pod-identity.hook.meta" -}}
labels:
  {{- include "aad-pod-identity.labels" (index . 0) | nindent 2 }}
annotations:
  helm.sh/hook: {{ index . 1 }}
  helm.sh/hook-weight: {{ index . 2 | quote }}
  helm.sh/hook-delete-policy: {{ append (compact (list (index . 3))) "before-hook-creation" | sortAlpha | join "," }}
{{- end -}}

{{- /* The security context of a pod that only calls the API server. */ -}}
{{- define "aad-pod-identity.hook.unprivileged" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* A Job that runs one of the chart's programs with the image of NMI, which has Python:
       (list $ NAME HOOK FILE ARGUMENTS VOLUME TRIES), VOLUME the name of a ConfigMap at /definitions, or "". */ -}}
{{- define "aad-pod-identity.hook.job" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace | quote }}
  {{- include "aad-pod-identity.hook.meta" (list $root (index . 2) "0" "hook-succeeded") | nindent 2 }}
spec:
  backoffLimit: {{ sub (index . 6) 1 }}
  activeDeadlineSeconds: 270
  template:
    metadata:
      labels:
        {{- include "aad-pod-identity.labels" $root | nindent 8 }}
    spec:
      restartPolicy: Never
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $root.Values.rbac.enabled }}
      serviceAccountName: {{ $name }}
      {{- end }}
      containers:
        - name: hook
          image: {{ include "aad-pod-identity.image" (list $root $root.Values.nmi) | quote }}
          imagePullPolicy: {{ $root.Values.image.imagePullPolicy }}
          command:
            - python3
            - -c
            - |
              {{- $root.Files.Get (printf "files/%s" (index . 3)) | nindent 14 }}
            {{- range index . 4 }}
            - {{ . | quote }}
            {{- end }}
          securityContext:
            {{- include "aad-pod-identity.hook.unprivileged" $root | nindent 12 }}
          resources:
            limits:
              cpu: 200m
              memory: 128Mi
            requests:
              cpu: 50m
              memory: 64Mi
          {{- with index . 5 }}
          volumeMounts:
            - name: definitions
              mountPath: /definitions
              readOnly: true
      volumes:
        - name: definitions
          configMap:
            name: {{ . }}
          {{- end }}
      nodeSelector:
        kubernetes.io/os: linux
      tolerations:
        - operator: Exists
{{- end -}}
