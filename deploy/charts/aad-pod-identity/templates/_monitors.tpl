{{- /* Scrape interval and timeout of the monitors. */ -}}

{{- /* Lines for one endpoint of the monitors: (list $ "podMonitor"). Rejects values with which alerts would stay silent, or
       the Prometheus operator would ignore the monitor. */ -}}
{{- define "aad-pod-identity.scraping" -}}
{{- $root := index . 0 -}}
{{- $of := index . 1 -}}
{{- $monitor := index $root.Values $of -}}
{{- $interval := $monitor.interval -}}
{{- if and $interval $root.Values.prometheusRule.enabled -}}
{{- /* The Go implementation's default, which copied values contain too. */ -}}
{{- if and (eq $of "podMonitor") (eq $interval "5m") -}}
{{- $interval = "1m" -}}
{{- end -}}
{{- if gt (int64 (include "aad-pod-identity.milliseconds" $interval)) 60000 -}}
{{- fail (printf "%s.interval is %s, too long for the alerts of prometheusRule, which use the last 5 minutes: set it to 1m or less, or prometheusRule.enabled to false" $of $interval) -}}
{{- end -}}
{{- end -}}
{{- if and $interval $monitor.scrapeTimeout -}}
{{- if gt (int64 (include "aad-pod-identity.milliseconds" $monitor.scrapeTimeout)) (int64 (include "aad-pod-identity.milliseconds" $interval)) -}}
{{- fail (printf "%s.scrapeTimeout is %s, longer than the interval of %s, and the Prometheus operator ignores such a monitor: set it to %s or less" $of $monitor.scrapeTimeout $interval $interval) -}}
{{- end -}}
{{- end -}}
{{- with $interval }}
interval: {{ . | quote }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* A duration in Prometheus's syntax, such as 1m30s, in milliseconds. */ -}}
{{- define "aad-pod-identity.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 "y" 31536000000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 -}}
{{- $sum = add $sum (mul (int64 (regexFind "[0-9]+" .)) (index $units (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{ $sum }}
{{- end -}}
