"""The files for Compose and Kubernetes: valid by the schemas of their makers, and with commands that exist."""

from __future__ import annotations

import copy
import io
import json
import re
import shlex
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from headrace.cli.featurize import main as featurize
from headrace.cli.train import main as train

ROOT = Path(__file__).parents[2]
KUBERNETES = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
COMPOSE = ROOT / "deploy/container/compose.yaml"
SKYPILOT = ROOT / "deploy/skypilot/train.yaml"
KUBERNETES_VERSION = "1.30"
"""The oldest that these files are checked for: podFailurePolicy is stable since 1.31, and there since 1.26."""
OF_OPERATORS = {"DaskCluster", "DaskAutoscaler", "TrainingRuntime", "TrainJob"}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


OBJECTS = [pytest.param(one, id=f"{path.name}:{one['kind']}") for path in KUBERNETES for one in documents(path)]


@pytest.mark.parametrize("found", OBJECTS)
def test_kubernetes_objects_are_valid(found: dict[str, Any]) -> None:
    check_object(found)


@pytest.mark.parametrize("found", OBJECTS)
def test_an_unknown_field_is_no_valid_object(found: dict[str, Any]) -> None:
    """The checks notice: schemas of operators let unknown fields pass unless asked otherwise."""
    damaged = copy.deepcopy(found)
    damaged["spec"]["notAField"] = 1
    with pytest.raises((AssertionError, Exception), match="notAField"):
        check_object(damaged)
    for pod in pods(damaged):
        del damaged["spec"]["notAField"]
        pod["containers"][0]["imagee"] = "x"
        with pytest.raises((AssertionError, Exception), match="imagee"):
            check_object(damaged)
        return


def check_object(found: dict[str, Any]) -> None:
    """Validate an object of Kubernetes, or of an operator, by its schema, and the pods within by Kubernetes' own."""
    kind = found["kind"]
    if kind not in OF_OPERATORS:
        validate_strictly(found)
    elif kind.startswith("Dask"):
        closed_validator(dask_schema(kind)).validate(found)
    else:
        models = pytest.importorskip("kubeflow_trainer_api.models")
        model = getattr(models, f"TrainerV1alpha1{kind}")
        read = model.from_dict(copy.deepcopy(found)).to_dict()
        assert not lost(found, read)
    for pod in pods(found) if kind in OF_OPERATORS else ():
        validate_strictly({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-an-operator"}, "spec": pod})


def validate_strictly(found: dict[str, Any]) -> None:
    pytest.importorskip("kubernetes_validate").validate(found, KUBERNETES_VERSION, strict=True)


def closed_validator(schema: dict[str, Any]) -> Any:
    """Return a validator of an OpenAPI schema that refuses fields which the schema does not name."""

    def close(node: Any) -> Any:
        if isinstance(node, list):
            return [close(one) for one in node]
        if not isinstance(node, dict):
            return node
        closed = {key: close(value) for key, value in node.items()}
        if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        if node.get("x-kubernetes-int-or-string"):
            closed.pop("type", None)
        return closed

    schema = close(schema)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    return pytest.importorskip("jsonschema").Draft7Validator(schema)


def dask_schema(kind: str) -> dict[str, Any]:
    """Return the schema of one of the Dask operator's kinds, from the wheel that `make venv` leaves beside."""
    wheels = sorted((ROOT / ".venv/schemas").glob("dask_kubernetes-*.whl"))
    if not wheels:
        pytest.skip("there is no wheel of dask-kubernetes in .venv/schemas, where `make venv` puts it")
    folder = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds"
    text = zipfile.ZipFile(wheels[-1]).read(f"{folder}/{kind.lower()}.yaml")
    definition = yaml.safe_load(io.BytesIO(text))
    return dict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def lost(given: Any, read: Any, at: str = "") -> list[str]:
    """List what nested values have that is missing in others, or differs there."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [line for key, value in given.items() for line in lost(value, read.get(key), f"{at}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [line for n, pair in enumerate(zip(given, read, strict=True)) for line in lost(*pair, f"{at}[{n}]")]
    return [] if given == read else [f"{at}: {given!r}, and {read!r} is read"]


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the specs of pods in an object."""
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


@pytest.mark.parametrize("found", OBJECTS)
def test_pods_have_no_privileges(found: dict[str, Any]) -> None:
    for pod in pods(found):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (10001, 0)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_compose_file_is_valid() -> None:
    schema = json.loads(
        resources.files(pytest.importorskip("check_jsonschema"))
        .joinpath("builtin_schemas/vendor/compose-spec.json")
        .read_text(encoding="utf-8")
    )
    (compose,) = documents(COMPOSE)
    validator = pytest.importorskip("jsonschema").Draft202012Validator(schema)
    validator.validate(compose)
    compose["services"]["train"]["imagee"] = "x"
    assert [error.message for error in validator.iter_errors(compose)]


def test_what_the_compose_file_mounts_is_there() -> None:
    (compose,) = documents(COMPOSE)
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            if (source := volume.split(":")[0]).startswith("."):
                assert (COMPOSE.parent / source).exists(), source


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield where each command of Headrace stands, and its words."""
    for path in KUBERNETES:
        for found in documents(path):
            for words in lists_of_words(found):
                yield path.name, words
    (compose,) = documents(COMPOSE)
    for words in lists_of_words(compose):
        yield COMPOSE.name, words
    (task,) = documents(SKYPILOT)
    for line in task["run"].splitlines():
        if line.startswith(("train ", "featurize ")):
            yield SKYPILOT.name, shlex.split(line)
    for path in sorted((ROOT / "deploy/slurm").iterdir()):
        text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
        for line in text.splitlines():
            if re.match(r"(featurize build|srun python3)", line):
                yield path.name, shlex.split(re.sub(r'"\$\(.*\)"', "ADDRESS", line).removesuffix(" &"))


def lists_of_words(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        for value in node.values():
            yield from lists_of_words(value)
    elif isinstance(node, list):
        if all(isinstance(word, str) for word in node) and {"featurize", "headrace.train", "train"} & set(node):
            yield node
        for value in node:
            yield from lists_of_words(value)


COMMANDS = list(commands())
GROUPS = {"featurize": featurize, "train": train, "headrace.train": train}


def test_every_recipe_has_a_command() -> None:
    named = {name for name, _ in COMMANDS}
    recipes = {path.name for path in KUBERNETES} | {path.name for path in (ROOT / "deploy/slurm").iterdir()}
    assert named == (recipes | {COMPOSE.name, SKYPILOT.name}) - {"shared-disk.yaml"}


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=[name for name, _ in COMMANDS])
def test_the_options_of_commands_exist(words: list[str]) -> None:
    at = max(words.index(name) for name in GROUPS if name in words)
    command: click.Command = GROUPS[words[at]].commands[words[at + 1]]
    given = [word.partition("=") for word in words[at + 2 :] if word.startswith("--")]
    options = {name: one for one in command.params for name in one.opts}
    for name, _, value in given:
        assert name in options, f"{words[at]} {words[at + 1]} has no {name}"
        if value:
            options[name].type.convert(value, options[name], click.Context(command))
