{{- /* The container of a head or worker, with its mounts and probes: (dict "root" $ "component" .. "group" ..) */}}
{{- define "ganscale.node" -}}
{{- $v := .root.Values }}
{{- $worker := eq .component "worker" }}
- name: ray-{{ .component }}
  image: {{ include "ganscale.image" (mergeOverwrite (dict) $v.image (dict "tag" ($v.image.tag | default .root.Chart.AppVersion))) }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  ports:
    - {name: metrics, containerPort: 8080}
    {{- if not $worker }}
    - {name: gcs-server, containerPort: 6379}
    - {name: dashboard, containerPort: 8265}
    - {name: as-metrics, containerPort: 44217}
    - {name: dash-metrics, containerPort: 44227}
    {{- end }}
  env:
    - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
    - {name: RAY_TRAIN_METRICS_ENABLED, value: "1"}
    - {name: PYTHONUNBUFFERED, value: "1"}
    {{- if or $worker (ne .job "train") }}
    - name: WANDB_API_KEY # without the Secret the run is kept offline; the head logs a sweep's progress
      valueFrom:
        secretKeyRef: {name: {{ $v.wandb.secret | default (printf "%s-wandb" .root.Release.Name) }}, key: {{ $v.wandb.key }}, optional: true}
    {{- end }}
    {{- range $name, $value := mergeOverwrite (dict) $v.env (ternary $v.worker.env (dict) $worker) }}
    - {name: {{ $name }}, value: {{ include "ganscale.plain" $value | quote }}}
    {{- end }}
    {{- include "ganscale.proxy" $v.proxy | nindent 4 }}
    {{- with $v.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- $from := $v.envFrom }}
  {{- if $v.storage.bucket }}
  {{- $secret := $v.storage.secret | default (printf "%s-bucket" .root.Release.Name) }}
  {{- $from = prepend $from (dict "secretRef" (dict "name" $secret "optional" true)) }}
  {{- end }}
  {{- with $from }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "ganscale.resources" .group.resources | nindent 2 }}
  {{- include "ganscale.security" . | nindent 2 }}
  volumeMounts:
    {{- if not $v.storage.bucket }}
    - {name: runs, mountPath: /mnt/ganscale}
    {{- end }}
    - {name: shm, mountPath: /dev/shm}
    - {name: tmp, mountPath: /tmp}
    - {name: home, mountPath: /home/ganscale}
    {{- with $v.volumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- if and $worker (gt (int $v.worker.drainSeconds) 0) }}
  lifecycle: # AWS gives a spot node two minutes; GKE and AKS half a minute, whatever is asked here
    preStop: {exec: {command: [/opt/ganscale/bin/drain-node, {{ $v.worker.drainSeconds | int64 | toString | quote }}]}}
  {{- end }}
  {{- range $probe, $failures := dict "startup" 60 "readiness" 6 "liveness" 60 }}
  {{ $probe }}Probe: # alive: ten minutes, a node that is busy is not dead
    httpGet: {path: /api/healthz, port: 52365}
    periodSeconds: {{ eq $probe "startup" | ternary 5 10 }}
    timeoutSeconds: 5
    failureThreshold: {{ $failures }}
  {{- end }}
{{- end }}

{{- define "ganscale.volumes" -}}
{{- $v := .root.Values }}
{{- if not $v.storage.bucket }}
- {name: runs, persistentVolumeClaim: {claimName: {{ include "ganscale.claim" .root }}}}
{{- end }}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .group.shm }}}}
- {name: tmp, emptyDir: {sizeLimit: {{ .group.tmp }}}}
- {name: home, emptyDir: {sizeLimit: 1Gi}}
{{- with $v.volumes }}{{ toYaml . | nindent 0 }}{{ end }}
{{- end }}

{{- /* Head and workers, as a RayCluster's spec: (dict "root" $ "job" "train") */}}
{{- define "ganscale.cluster" -}}
{{- $v := .root.Values }}
{{- $scaled := gt (int $v.worker.maxReplicas) 0 }}
{{- $head := dict "root" .root "job" .job "component" "head" "group" $v.head "account" (ternary ($v.serviceAccount.headName | default (printf "%s-head" .root.Release.Name)) "" $scaled) }}
{{- $worker := dict "root" .root "job" .job "component" "worker" "group" $v.worker }}
rayVersion: {{ $v.image.rayVersion }}
authOptions: {mode: token} # the operator makes the token, as the key auth_token of a Secret named like the RayCluster
{{- if $scaled }}
enableInTreeAutoscaling: true
autoscalerOptions: # beside the head, whose account may change the RayCluster: the operator gives it that role
  version: v2
  upscalingMode: Default
  idleTimeoutSeconds: {{ $v.worker.idleSeconds | int64 }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  {{- include "ganscale.resources" (dict "cpu" "500m" "memory" "1Gi" "ephemeral-storage" "1Gi") | nindent 2 }}
  {{- include "ganscale.security" . | nindent 2 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: home, mountPath: /home/ganscale}
{{- end }}
headGroupSpec:
  rayStartParams:
    dashboard-host: {{ ternary "0.0.0.0" "::" (eq $v.ipFamily "IPv4") | quote }} # NetworkPolicy `dashboard` says who reaches it
    num-cpus: "0"
    object-store-memory: {{ $v.head.objectStore | int64 | toString | quote }}
  template:
    {{- include "ganscale.metadata" $head | nindent 4 }}
    spec:
      {{- include "ganscale.pod" $head | nindent 6 }}
      {{- with $v.head.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $scaled }}
      restartPolicy: Never
      {{- end }}
      terminationGracePeriodSeconds: 60
      volumes: {{- include "ganscale.volumes" $head | nindent 8 }}
      containers: {{- include "ganscale.node" $head | nindent 8 }}
workerGroupSpecs:
  - groupName: workers
    replicas: {{ $v.worker.replicas }}
    minReplicas: {{ $v.worker.replicas }}
    maxReplicas: {{ $v.worker.maxReplicas | default $v.worker.replicas }}
    rayStartParams:
      object-store-memory: {{ $v.worker.objectStore | int64 | toString | quote }}
    template:
      {{- include "ganscale.metadata" $worker | nindent 6 }}
      spec:
        {{- include "ganscale.pod" $worker | nindent 8 }}
        {{- with include "ganscale.affinity" $worker }}
        affinity: {{- . | nindent 10 }}
        {{- end }}
        {{- if $scaled }}
        restartPolicy: Never
        {{- end }}
        terminationGracePeriodSeconds: {{ max 60 (add $v.worker.drainSeconds 20) }}
        volumes: {{- include "ganscale.volumes" $worker | nindent 10 }}
        containers:
          {{- include "ganscale.node" $worker | nindent 10 }}
          {{- with $v.worker.sidecars }}{{ toYaml . | nindent 10 }}{{ end }}
{{- end }}
