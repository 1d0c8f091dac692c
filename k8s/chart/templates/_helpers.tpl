{{- define "ganscale.labels" -}}
app.kubernetes.io/part-of: ganscale
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Metadata of an object: (list $ NAME), and further labels as a string. */}}
{{- define "ganscale.meta" -}}
metadata:
  name: {{ index . 1 }}
  namespace: {{ (first .).Release.Namespace }}
  labels:
    {{- include "ganscale.labels" (first .) | nindent 4 }}
    {{- range slice . 2 }}{{ with . }}{{ . | nindent 4 }}{{ end }}{{ end }}
{{- end }}

{{- /* Selects the release's pods of some components: (list $ "head" "worker") */}}
{{- define "ganscale.pods" -}}
{matchLabels: {app.kubernetes.io/part-of: ganscale, app.kubernetes.io/instance: {{ (first .).Release.Name }}},
{{- ""}} matchExpressions: [{key: app.kubernetes.io/component, operator: In, values: [{{ rest . | join ", " }}]}]}
{{- end }}

{{- /* Cluster-wide objects: two teams may use the same name in two namespaces. */}}
{{- define "ganscale.wide" -}}
{{ .Release.Namespace }}-{{ .Release.Name }}
{{- end }}

{{- define "ganscale.account" -}}
{{ .Values.serviceAccount.name | default (ternary .Release.Name "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "ganscale.claim" -}}
{{ .Values.storage.existingClaim | default (printf "%s-runs" .Release.Name) }}
{{- end }}

{{- define "ganscale.folder" -}}
{{ .Values.storage.bucket | trimSuffix "/" | default "/mnt/ganscale" }}
{{- end }}

{{- /* A value as text: numbers of values files are floats, which toString writes as 8.388608e+06. */}}
{{- define "ganscale.plain" -}}
{{ kindIs "string" . | ternary . (toJson .) }}
{{- end }}

{{- define "ganscale.image" -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "ganscale.priority" -}}
{{ .Values.priorityClass.name | default (ternary (include "ganscale.wide" .) "" .Values.priorityClass.create) }}
{{- end }}

{{- /* GPUs per worker, and how many training processes that makes: N or [LEAST, MOST]. */}}
{{- define "ganscale.gpus" -}}
{{ index .Values.worker.resources "nvidia.com/gpu" | default (index .Values.worker.resources "amd.com/gpu") | default 0 }}
{{- end }}
{{- define "ganscale.processes" -}}
{{- $each := max 1 (include "ganscale.gpus" . | int) }}
{{- $least := mul .Values.worker.replicas $each }}
{{- if .Values.worker.maxReplicas }}[{{ max 1 $least }},{{ mul .Values.worker.maxReplicas $each }}]{{ else }}{{ $least }}{{ end }}
{{- end }}

{{- /* The command of a job: (dict "root" $ "job" "train"). The same command resumes. */}}
{{- define "ganscale.entrypoint" -}}
{{- $v := .root.Values }}
{{- $job := index $v .job }}
{{- $folder := include "ganscale.folder" .root }}
{{- $gpus := include "ganscale.gpus" .root | int }}
{{- $words := list (ternary $job.config (printf "/opt/ganscale/configs/%s" $job.config) (hasPrefix "/" $job.config)) }}
{{- if eq .job "train" }}
{{- $words = append $words (printf "run.dir=%s/runs" $folder) }}
{{- with $job.name }}{{ $words = append $words (printf "run.name=%s" .) }}{{ end }}
{{- $words = append $words (printf "cluster.num_workers=%s" (include "ganscale.processes" .root)) }}
{{- $words = append $words (printf "cluster.cpus_per_worker=%d" (max 1 (div $v.worker.resources.cpu (max 1 $gpus)))) }}
{{- $words = append $words (printf "cluster.max_restarts=%d" (int $job.maxRestarts)) }}
{{- else }}
{{- $words = append $words (printf "sweep.dir=%s/sweeps" $folder) }}
{{- with $job.name }}{{ $words = append $words (printf "sweep.name=%s" .) }}{{ end }}
{{- if $v.worker.maxReplicas }}{{ $words = append $words (printf "sweep.max_concurrent=%d" (mul $v.worker.maxReplicas (max 1 $gpus))) }}{{ end }}
{{- end }}
{{- if $gpus }}{{ $words = append $words "train.device=cuda" }}{{ end }}
{{- $words = append $words (printf "cluster.node_wait=%d" (int $v.job.nodeWait)) }}
{{- $words = concat $words $job.args | join " " }}
{{- if and $v.ncclCheck.enabled (eq .job "train") -}}
{{- /* After a lost head the workers come back one by one. No $: the submitter's shell would replace it. */ -}}
bash -c "for try in 1 2 3 4 5 6 7 8 9 10; do python -m ganscale.doctor --nccl --nodes {{ add 1 $v.worker.replicas }} {{ $words }} && exec python -m ganscale.train {{ $words }}; sleep 30; done; exit 1"
{{- else -}}
python -m ganscale.{{ ternary "train" "tune" (eq .job "train") }} {{ $words }}
{{- end }}
{{- end }}

{{- define "ganscale.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "ganscale.resources" -}}
resources:
  {{- range list "requests" "limits" }}
  {{ . }}:
    {{- range $name, $amount := $ }}
    {{ $name }}: {{ include "ganscale.plain" $amount | quote }}
    {{- end }}
  {{- end }}
{{- end }}

{{- /* What all pods' metadata and specs have in common: (dict "root" $ "job" .. "component" .. "group" .. "uid" ..) */}}
{{- define "ganscale.metadata" -}}
metadata:
  labels:
    {{- include "ganscale.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with .job }}
    ganscale.io/job: {{ . }}
    {{- end }}
    {{- with .root.Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- $group := .group | default dict }}
  {{- $stays := dict "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" "karpenter.sh/do-not-disrupt" "true" }}
  {{- $annotations := ternary $stays (dict) (and (hasKey . "group") (not $group.evictable)) }}
  {{- with mergeOverwrite $annotations .root.Values.podAnnotations ($group.annotations | default dict) }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "ganscale.pod" -}}
{{- $v := .root.Values }}
serviceAccountName: {{ .account | default (include "ganscale.account" .root) }}
automountServiceAccountToken: {{ not (empty .account) }}
enableServiceLinks: false
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with include "ganscale.priority" .root }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- if ne (toString $v.runAsUser) "platform" }}
  {{- $user := .user | default $v.runAsUser | int }}
  runAsUser: {{ $user }}
  runAsGroup: {{ $user }}
  fsGroup: {{ $user }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- $group := .group | default dict }}
{{- with mergeOverwrite (dict) $v.nodeSelector ($group.nodeSelector | default dict) }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $group.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Workers near each other, each on a node of its own; what the values add. */}}
{{- define "ganscale.affinity" -}}
{{- $worker := .root.Values.worker }}
{{- $affinity := deepCopy $worker.affinity }}
{{- $labels := dict "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/component" "worker" "ganscale.io/job" .job }}
{{- $zone := dict "topologyKey" "topology.kubernetes.io/zone" "labelSelector" (dict "matchLabels" $labels) }}
{{- $required := "requiredDuringSchedulingIgnoredDuringExecution" }}
{{- $terms := list }}
{{- if eq $worker.sameZone "required" }}
{{- $terms = append $terms (list "podAffinity" $required $zone) }}
{{- else if eq $worker.sameZone "preferred" }}
{{- $terms = append $terms (list "podAffinity" "preferredDuringSchedulingIgnoredDuringExecution" (dict "weight" 100 "podAffinityTerm" $zone)) }}
{{- end }}
{{- if $worker.onePerNode }}
{{- $node := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/part-of" "ganscale" "app.kubernetes.io/component" "worker")) }}
{{- $terms = append $terms (list "podAntiAffinity" $required $node) }}
{{- end }}
{{- range $terms }}
{{- $kind := get $affinity (index . 0) | default dict }}
{{- $_ := set $kind (index . 1) (append (get $kind (index . 1) | default list) (index . 2)) }}
{{- $_ := set $affinity (index . 0) $kind }}
{{- end }}
{{- with $affinity }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "ganscale.proxy" -}}
{{- if or .http .https }}
{{- $own := "localhost,127.0.0.1,::1,.svc,.cluster.local,10.0.0.0/8,100.64.0.0/10,169.254.0.0/16,172.16.0.0/12,192.168.0.0/16,fc00::/7" }}
{{- $variables := dict "HTTP_PROXY" .http "HTTPS_PROXY" .https "NO_PROXY" (list $own .exclude | compact | join ",") }}
{{- range $name, $value := $variables }}
- {name: {{ $name }}, value: {{ $value | quote }}}
- {name: {{ lower $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* Labels by which a queue takes a RayJob or RayCluster. */}}
{{- define "ganscale.queue" -}}
{{- $name := .Values.queue.name | default .Release.Name }}
{{- with .Values.queue }}
{{- if eq .scheduler "kueue" }}
kueue.x-k8s.io/queue-name: {{ $name }}
{{- else if eq .scheduler "volcano" }}
ray.io/scheduler-name: volcano
volcano.sh/queue-name: {{ $name }}
{{- else if eq .scheduler "kai" }}
kai.scheduler/queue: {{ $name }}
{{- else if eq .scheduler "yunikorn" }}
ray.io/gang-scheduling-enabled: "true"
yunikorn.apache.org/app-id: {{ $.Release.Namespace }}-{{ $.Release.Name }}
yunikorn.apache.org/queue: {{ $name }}
{{- end }}
{{- end }}
{{- end }}
