{{- define "platen.labels" -}}
app.kubernetes.io/name: platen
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{/* One container: the role is its only argument, unless others are said. */}}
{{- define "platen.container" -}}
name: {{ .role }}
image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ .args | default (list .role) | toJson }}
envFrom:
  - secretRef:
      name: {{ .secret | default .root.Values.secret }}
env:
  - { name: PLATEN_LOG_FORMAT, value: json }
  {{- range $name, $value := merge (dict) (.environment | default dict) .root.Values.environment }}
  {{- if $value }}
  - { name: {{ $name }}, value: {{ $value | quote }} }
  {{- end }}
  {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - { name: tmp, mountPath: /tmp }
{{- end }}

{{- define "platen.pod" -}}
automountServiceAccountToken: false
# Or a release called `platen` puts PLATEN_API_PORT and the like into every process, which refuses what it does not know.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: tmp
    emptyDir: {}
{{- end }}
