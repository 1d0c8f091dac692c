"""Schemas to check manifests against, as strictly as `kubectl apply --validate=strict`: unknown fields are refused.

Kubernetes' own kinds: the package kubernetes-validate. Custom ones: the CRDs in the folders that GANSCALE_KUBERAY_CRDS
names (several with a colon between them), by default ../shared/kuberay beside the checkout.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import ROOT, Manifest

VARIABLE = "GANSCALE_KUBERAY_CRDS"
BUNDLED = ("apps/v1", "batch/v1", "networking.k8s.io/v1", "policy/v1", "scheduling.k8s.io/v1", "v1")
"""API versions of the kinds that come with Kubernetes."""


@cache
def custom() -> dict[tuple[str, str], Manifest]:
    """OpenAPI schemas of custom kinds by (apiVersion, kind)."""
    named = os.environ.get(VARIABLE)
    folders = [Path(part) for part in named.split(os.pathsep)] if named else [ROOT.parent / "shared" / "kuberay"]
    assert not named or all(folder.is_dir() for folder in folders), f"{VARIABLE}: no such folder: {named}"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*.yaml")):
        for document in yaml.load_all(path.read_text(encoding="utf-8"), Loader=loader):
            if document and document.get("kind") == "CustomResourceDefinition":
                names, group = document["spec"]["names"], document["spec"]["group"]
                for version in document["spec"]["versions"]:
                    schemas[f"{group}/{version['name']}", names["kind"]] = version["schema"]["openAPIV3Schema"]
    return schemas


def _strict(schema: Any) -> Any:
    """A CRD's structural schema as a JSON schema that knows no other fields than those listed."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    made.pop("format", None)
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    closed = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.pop("nullable", False) is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


@cache
def _closed(version: str, kind: str) -> Manifest:
    schema = _strict(custom()[version, kind])
    return schema | {"properties": schema["properties"] | {"metadata": {"type": "object"}}}


def custom_errors(document: Manifest) -> list[str]:
    """What the CRD's schema and rules have against a custom manifest; skips the test where the CRD is not at hand."""
    jsonschema = pytest.importorskip("jsonschema")
    key = (document["apiVersion"], document["kind"])
    if key not in custom():
        pytest.skip(f"no CRD of {key} found: name a folder that has it in {VARIABLE}")
    errors = jsonschema.Draft7Validator(_closed(*key)).iter_errors(document)
    return _rule_errors(custom()[key], document) + [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors
    ]


def _rule_errors(schema: Any, value: Any, place: str = "") -> list[str]:
    """What the CEL rules in a CRD have against a new object; rules about changes need an older one."""
    errors = []
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"]:
            cel = pytest.importorskip("cel", reason="common-expression-language is not installed")
            if not cel.evaluate(rule["rule"], {"self": value}):
                errors.append(f"{place}: {rule.get('message', rule['rule'])}")
    if isinstance(value, dict):
        for key, below in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            errors += _rule_errors(inner, below, f"{place}.{key}") if isinstance(inner, dict) else []
    elif isinstance(value, list):
        for index, below in enumerate(value):
            errors += _rule_errors(schema.get("items", {}), below, f"{place}[{index}]")
    return errors


def core_errors(document: Manifest, version: str) -> list[str]:
    """What the schema of a Kubernetes version has against a manifest of one of its own kinds."""
    return list(_core_errors(json.dumps(document), version))


@cache
def _core_errors(document: str, version: str) -> tuple[str, ...]:
    """Overlays have much in common, and the package reads all schemas anew each time."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    try:
        kubernetes_validate.validate(json.loads(document), version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return (f"{'.'.join(map(str, getattr(error, 'path', ())))}: {error.message[:200]}",)
    return ()
