"""The manifests, read by those they are written for, offline: Helm, the schemas of Kubernetes, Grafana's own types.

Exits with 1 and says what is wrong. Each reader is first shown a fault of the kind that it must find.
"""

import copy
import json
import pathlib
import sys

import helm_python
import jsonschema
import kubernetes_validate
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard

ROOT = pathlib.Path(__file__).parent.parent.parent
KUBERNETES = "1.32"

# Of KEDA's ScaledObject, the fields that we use: its own schema comes with KEDA (keda.sh/docs, "ScaledObject spec").
STRING, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}


def closed(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def listed(items):
    return {"type": "array", "minItems": 1, "items": items}


def speed():
    policy = closed(["type", "value", "periodSeconds"], type={"enum": ["Percent", "Pods"]}, value=NUMBER, periodSeconds=NUMBER)
    return closed(["policies"], stabilizationWindowSeconds=NUMBER, policies=listed(policy))


SCALED_OBJECT = closed(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=closed(["name"], name=STRING),
    minReplicaCount=NUMBER,
    maxReplicaCount=NUMBER,
    pollingInterval=NUMBER,
    fallback=closed(
        ["failureThreshold", "replicas"],
        failureThreshold=NUMBER,
        replicas=NUMBER,
        behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
    ),
    advanced=closed(
        [], horizontalPodAutoscalerConfig=closed([], behavior=closed([], scaleUp=speed(), scaleDown=speed()))
    ),
    triggers=listed(
        closed(
            ["type", "metadata"],
            type={"const": "prometheus"},
            metricType={"enum": ["AverageValue", "Value"]},
            # All strings, as KEDA wants them.
            metadata=closed(["serverAddress", "query", "threshold"], **dict.fromkeys(
                ["serverAddress", "query", "threshold", "ignoreNullValues"], STRING
            )),
        )
    ),
)

# Whose schemas do not come with Kubernetes. The rules in a PrometheusRule are promtool's to read.
OTHERS = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


def rendered(values):
    """The chart's objects."""
    files = helm_python.Chart.load(str(ROOT / "deploy/helm")).render(values=values)
    return [it for text in files.values() for it in yaml.safe_load_all(text) if it]


def faults_of(it):
    """What Kubernetes, or KEDA, would refuse."""
    try:
        if it["kind"] == "ScaledObject":
            jsonschema.validate(it["spec"], SCALED_OBJECT)
        elif it["kind"] not in OTHERS:
            kubernetes_validate.validate(it, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        yield f"{it['kind']} {it['metadata']['name']}: {error.message} at {list(error.path)}"


def chart():
    report = helm_python.lint(str(ROOT / "deploy/helm"), strict=True)
    yield from report["errors"]
    # A hint, that the chart has no picture of itself, is none.
    yield from (it["error"] for it in report["messages"] if it["severity"] > 1)
    everything = {
        "api": {"ingress": {"host": "studio.example", "className": "nginx", "tlsSecret": "tls"}},
        "monitoring": {"labels": {"release": "prometheus"}},
        "serviceAccount": {"annotations": {"iam.gke.io/gcp-service-account": "platen@project.iam.gserviceaccount.com"}},
        "environment": {"PLATEN_BUCKET": "gs://bucket/prefix"},
    }
    nothing = {"scaling": {"enabled": False}, "monitoring": {"enabled": False}}
    kinds = set()
    for values in [{}, everything, nothing]:
        for it in rendered(values):
            kinds.add(it["kind"])
            yield from faults_of(it)
    missing = {"Deployment", "Service", "PodDisruptionBudget", "ScaledObject", "Job", "Ingress", "PrometheusRule"} - kinds
    if missing:
        yield f"the chart renders no {', '.join(missing)}"
    # Files are found only inside a chart: the rules are a link.
    rules = next(it for it in rendered({}) if it["kind"] == "PrometheusRule")
    if rules["spec"] != yaml.safe_load((ROOT / "dashboards/prometheus/rules.yml").read_text()):
        yield "the chart's rules are not those of dashboards/prometheus/rules.yml"


def planted():
    """Faults that must be found, or what finds them is of no use."""
    objects = rendered({})
    for kind, where, wrong in [
        ("Deployment", ["spec", "template", "spec", "containers", 0, "portss"], []),
        ("PodDisruptionBudget", ["spec", "maxUnavailabel"], 1),
        ("ScaledObject", ["spec", "minReplicas"], 1),
    ]:
        it = copy.deepcopy(next(it for it in objects if it["kind"] == kind))
        place = it
        for step in where[:-1]:
            place = place[step]
        place[where[-1]] = wrong
        if not list(faults_of(it)):
            yield f"{where[-1]} in a {kind} was not noticed"
    board = json.loads(next(boards()).read_text())
    board["panels"][0]["fieldConfig"]["defaults"]["unitt"] = "s"
    if not list(lost(board, round_trip(board))):
        yield "a field that Grafana does not know was not noticed"


def boards():
    return (ROOT / "dashboards/grafana/boards").glob("*.json")


def round_trip(board):
    """A board as Grafana's types keep it."""
    return json.loads(json.dumps(dashboard.Dashboard.from_json(board), cls=encoder.JSONEncoder))


def lost(before, after, path=""):
    """The fields that did not survive."""
    if isinstance(before, dict):
        for key, value in before.items():
            if not isinstance(after, dict) or key not in after:
                # Empty ones are not written.
                if value not in ({}, [], "", None, False):
                    yield f"{path}.{key}"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list):
        for number, value in enumerate(before):
            if not isinstance(after, list) or number >= len(after):
                yield f"{path}[{number}]"
            else:
                yield from lost(value, after[number], f"{path}[{number}]")


def grafana():
    for path in sorted(boards()):
        board = json.loads(path.read_text())
        yield from (f"{path.name}: Grafana knows no {field}" for field in lost(board, round_trip(board)))


plugins.register_default_plugins()
found = [fault for check in (planted, chart, grafana) for fault in check()]
for fault in found:
    print(f"manifests: {fault}", file=sys.stderr)
sys.exit(bool(found))
