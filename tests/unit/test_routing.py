"""The route table and what is made from it."""

import json

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from access.policy import Action
from api.openapi import document
from api.routes import TABLE
from api.routing import BASE
from errors import MethodNotAllowed, NotFound

CONTRACT = {
    ("GET", "/audit/events"),
    ("GET", "/audit/checkpoint"),
    ("GET", "/audit/proof/{prediction_id}"),
    ("GET", "/audit/consistency"),
    ("GET", "/audit/export"),
    ("POST", "/predict"),
    ("POST", "/predict/symptom-analysis"),
    ("POST", "/predict/deterioration"),
    ("POST", "/predict/batch"),
    ("GET", "/models"),
    ("GET", "/models/{name}"),
    ("GET", "/models/{name}/performance"),
    ("GET", "/models/{name}/report"),
    ("GET", "/predictions/history"),
    ("GET", "/predictions/{prediction_id}"),
    ("POST", "/predictions/{prediction_id}/amendments"),
    ("GET", "/stats"),
    ("GET", "/openapi.json"),
    ("POST", "/break-glass"),
    ("GET", "/break-glass"),
    ("POST", "/break-glass/{id}/review"),
    ("PUT", "/care-team/{clinician}/{patient_id}"),
    ("DELETE", "/care-team/{clinician}/{patient_id}"),
    ("GET", "/care-team/{clinician}"),
    ("POST", "/access/revocations"),
}


def test_the_table_is_the_contract() -> None:
    ours = {(route.method, route.path.removeprefix(BASE)) for route in TABLE.routes if route.path.startswith(BASE)}
    assert ours == CONTRACT
    assert {route.path for route in TABLE.routes if not route.path.startswith(BASE)} == {"/metrics", "/schema.json"}


def test_every_route_declares_an_action_and_has_somebody_who_answers() -> None:
    for route in TABLE.routes:
        assert route.action in set(Action)
        assert route.handler is not None or route.bento
        assert route.body is None or route.method == "POST"
        assert route.method != "GET" or route.status == 200


def test_only_the_contract_itself_is_open_in_a_demo() -> None:
    assert [route.path for route in TABLE.routes if route.open_in_demo] == [f"{BASE}/openapi.json"]


@pytest.mark.parametrize(
    "path", ["/", "/docs.json", "/api/v1/ml", f"{BASE}/models/", f"{BASE}/models/a/b", "//", "/livez/"]
)
def test_what_is_not_in_the_table_does_not_exist(path: str) -> None:
    with pytest.raises(NotFound):
        TABLE.find("GET", path)


def test_another_method_is_told_apart_from_another_address() -> None:
    with pytest.raises(MethodNotAllowed):
        TABLE.find("DELETE", f"{BASE}/models")
    with pytest.raises(MethodNotAllowed):
        TABLE.find("GET", f"{BASE}/predict")


def test_a_fixed_address_goes_before_a_template() -> None:
    route, parameters = TABLE.find("GET", f"{BASE}/predictions/history")
    assert (route.path, parameters) == (f"{BASE}/predictions/history", {})
    route, parameters = TABLE.find("GET", f"{BASE}/models/clinical_ner/performance")
    assert parameters == {"name": "clinical_ner"}


def test_the_openapi_document_is_valid_and_complete() -> None:
    made = json.loads(json.dumps(document(TABLE.routes)))
    OpenAPIV31SpecValidator(made).validate()
    assert made["openapi"].startswith("3.1")
    operations = {(method.upper(), path) for path, methods in made["paths"].items() for method in methods}
    assert operations == {(route.method, route.path) for route in TABLE.routes}
    for route in TABLE.routes:
        operation = made["paths"][route.path][route.method.lower()]
        assert {str(route.status), "401", "403", "429", "503"} <= set(operation["responses"])
