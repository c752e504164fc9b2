{{- /* The port of NMI's token server. */ -}}
{{- define "aad-pod-identity.nmi.port" -}}
{{- $port := "2579" -}}
{{- range .Values.nmi.extraArgs -}}
{{- if regexMatch "^--?nmi-port=[0-9]+$" . -}}{{- $port = regexReplaceAll "^.*=" . "" -}}{{- end -}}
{{- end -}}
{{ $port }}
{{- end -}}

{{- /* "true" if NMI's pods are in a network of their own. Cilium exempts only such a pod from its own redirect, which NMI
       needs to reach IMDS. Rules of netfilter can only be changed in the node's network. */ -}}
{{- define "aad-pod-identity.nmi.ownNetwork" -}}
{{- if eq .Values.nmi.redirect.backend "cilium" -}}true{{- end -}}
{{- end -}}

{{- /* Refuses values of nmi.redirect that cannot work. */ -}}
{{- define "aad-pod-identity.redirect.check" -}}
{{- $nmi := .Values.nmi -}}
{{- $backend := $nmi.redirect.backend -}}
{{- $target := $nmi.redirect.target -}}
{{- if or (ne $backend "auto") (ne $target "auto") -}}
{{- range $nmi.extraArgs -}}
{{- if regexMatch "^--?redirect(-target)?=" . -}}
{{- fail (printf "nmi.extraArgs has %s, and nmi.redirect is set, too: remove the flag from nmi.extraArgs" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if has $backend (list "cilium" "none") -}}
{{- if $nmi.bootGuard -}}
{{- fail (printf "nmi.bootGuard is true, but its rule is one of netfilter, and with nmi.redirect.backend %s NMI changes no such rule, so that the guard would remain: set nmi.bootGuard to false" $backend) -}}
{{- end -}}
{{- if eq $nmi.routeLocalnet "set" -}}
{{- fail (printf "nmi.routeLocalnet is set, which only a rule with the target loopback needs, and nmi.redirect.backend %s has no rule: set nmi.routeLocalnet to check" $backend) -}}
{{- end -}}
{{- end -}}
{{- if eq $backend "cilium" -}}
{{- if eq $target "loopback" -}}
{{- fail "nmi.redirect.target is loopback, but a CiliumLocalRedirectPolicy redirects to the address of NMI's pod: set nmi.redirect.target to auto or node" -}}
{{- end -}}
{{- if $nmi.handover.enabled -}}
{{- fail "nmi.handover.enabled is true, but with nmi.redirect.backend cilium each NMI has a network of its own, and no port to pass on: set nmi.handover.enabled to false" -}}
{{- end -}}
{{- if eq (include "aad-pod-identity.nmi.port" .) "80" -}}
{{- fail "nmi.extraArgs has --nmi-port=80, but NMI checks Cilium's redirect at its own port of the metadata address, where 80 is IMDS: choose another port" -}}
{{- end -}}
{{- range $nmi.extraArgs -}}
{{- if regexMatch "^--?host-token-types=.*[0-9]" . -}}
{{- fail (printf "nmi.extraArgs has %s, but NMI serves host tokens only on the loopback of its own network, and with nmi.redirect.backend cilium this is not the node's: remove the flag from nmi.extraArgs" .) -}}
{{- end -}}
{{- end -}}
{{- if $nmi.failClosed -}}
{{- include "aad-pod-identity.redirect.checkCilium" . -}}
{{- end -}}
{{- else if eq $backend "none" -}}
{{- if ne $target "auto" -}}
{{- fail (printf "nmi.redirect.target is %s, but nmi.redirect.backend none has no redirect: set nmi.redirect.target to auto" $target) -}}
{{- end -}}
{{- if $nmi.failClosed -}}
{{- fail "nmi.failClosed is true, but with nmi.redirect.backend none there is no rule that blocks IMDS while NMI is not running: set nmi.failClosed to false, and block IMDS for pods in another way" -}}
{{- end -}}
{{- else if and (eq $target "node") (eq $nmi.routeLocalnet "set") -}}
{{- fail "nmi.routeLocalnet is set, which only the target loopback needs, and nmi.redirect.target is node: set nmi.routeLocalnet to check" -}}
{{- end -}}
{{- end -}}

{{- /* A Cilium before 1.16 drops the field enableDefaultDeny of the deny policy, which would then deny all egress of all
       pods. `helm template` cannot read the cluster. */ -}}
{{- define "aad-pod-identity.redirect.checkCilium" -}}
{{- $definition := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "ciliumclusterwidenetworkpolicies.cilium.io" -}}
{{- if and $definition (not (contains "enableDefaultDeny" (toJson $definition))) -}}
{{- fail "nmi.failClosed needs the field enableDefaultDeny of CiliumClusterwideNetworkPolicies, which this Cilium does not have: without it the policy would deny all egress of all pods. Upgrade to Cilium 1.16 or newer, or set nmi.failClosed to false" -}}
{{- end -}}
{{- end -}}
