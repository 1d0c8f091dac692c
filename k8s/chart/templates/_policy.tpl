{{- /* The head of a NetworkPolicy: (dict "root" $ "name" .. "pods" SELECTOR "types" ..).
Who reaches Ray's ports can run code, so nothing comes in or goes out but what is listed. KubeRay's own spec.networkPolicy
is an alpha feature that the operator refuses by default. Of pods of other namespaces labels are not enough, since anybody
can give them to a pod: the namespace's name has to fit as well. */}}
{{- define "ganscale.policy" }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{{ include "ganscale.meta" (list .root (printf "%s-%s" .root.Release.Name .name)) }}
spec:
  podSelector: {{ .pods }}
  policyTypes: [{{ .types }}]
{{- end }}
