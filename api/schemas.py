"""The bodies of the contract. Requests are strict, refuse unknown fields and never show what was sent in an error."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import bentoml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
from starlette.requests import Request

from access.break_glass import LONGEST_MINUTES, LONGEST_REASON
from access.denylist import LONGEST_HOURS
from access.reasons import SHORTEST_REASON, explains
from clinical.vitals import DAY_SCHEMA, WINDOW_DAYS
from database.subjects import canonical_subject

MOST_ITEMS = 64

PatientId = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_.:\-]{1,128}$", description="A Cognito sub; in capitals it is the same one."),
    AfterValidator(canonical_subject),
]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", examples=["clinical_ner"])]

# The model's own parser checks the days, so that the generic route and this one cannot differ.
Measurements = Annotated[
    list[Any],
    Field(description="Seven days, oldest first; a day or a value that was not measured is null."),
    WithJsonSchema({"type": "array", "minItems": WINDOW_DAYS, "maxItems": WINDOW_DAYS, "items": DAY_SCHEMA}),
]


class Body(bentoml.IODescriptor):  # type: ignore[misc]
    """A request's body. BentoML hands it to the service as the gate parsed it: see api/gate.py."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:
        """The body that the gate has checked already."""
        body: Self = request.scope["state"]["admitted"].body
        return body


class PredictRequest(Body):
    """Any model by name; `input_data` must fit the model's own input schema."""

    model_name: ModelName
    input_data: dict[str, Any]
    use_cache: bool = True
    explain: bool = Field(False, description="Also say how the answer came about; takes longer.")
    patient_id: PatientId | None = None


class SymptomAnalysisRequest(Body):
    """Find symptoms, medications and conditions in a note."""

    text: str = Field(
        min_length=1, max_length=20_000, examples=["Patient reports severe headache and nausea for 3 days"]
    )
    analysis_type: Literal["symptom_ner"] = "symptom_ner"
    normalize: bool = Field(False, description="Also give each entity's codes: HPO, MeSH, ICD-10-CM, DrugBank.")
    patient_id: PatientId | None = None
    use_cache: bool = True


class DeteriorationRequest(Body):
    """Compare a week of home measurements with what usually comes next."""

    measurements: Measurements
    explain: bool = Field(False, description="Also say what each reading adds to the score.")
    patient_id: PatientId | None = None


class BatchItem(BaseModel):
    """One thing to predict, under the caller's own name for it."""

    model_config = Body.model_config

    id: str = Field(min_length=1, max_length=128)
    input_data: dict[str, Any]
    patient_id: PatientId | None = None


def _a_batch(items: Any) -> Any:
    """Before the items are looked at: what is wrong with each of a million of them takes long to find."""
    if isinstance(items, list) and len(items) > MOST_ITEMS:
        raise ValueError(f"at most {MOST_ITEMS} items are taken")
    return items


class BatchRequest(Body):
    """Up to 64 predictions of one model."""

    model_name: ModelName
    items: Annotated[list[BatchItem], BeforeValidator(_a_batch)] = Field(min_length=1, max_length=MOST_ITEMS)


class BreakGlassRequest(Body):
    """Break-glass access to one patient. Everybody who needs to will read the reason."""

    patient_id: PatientId
    reason: str = Field(min_length=SHORTEST_REASON, max_length=LONGEST_REASON)
    minutes: int = Field(LONGEST_MINUTES, ge=1, le=LONGEST_MINUTES)
    confirmation: str | None = Field(
        None, max_length=64, description="Above the ceiling: what the problem `confirmation-needed` gave."
    )

    @field_validator("reason")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not explains(value):
            raise ValueError("must say something, in words")
        return value.strip()


class RevocationRequest(Body):
    """Which token (jti), login (origin_jti) or person (sub) is let in no more; without `hours`, for good."""

    kind: Literal["jti", "origin_jti", "sub"]
    value: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_.:\-]{1,128}(@[0-9]{1,12})?$",
            description="A login that has no name of its own is named SUB@AUTH_TIME, by two claims of its tokens.",
        ),
        AfterValidator(canonical_subject),
    ]
    hours: int | None = Field(None, ge=1, le=LONGEST_HOURS)


class _Shown(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


CommitmentNonce = Annotated[
    str | None,
    Field(
        None,
        pattern="^[0-9a-f]{32}$",
        description="The record holds SHA-256(these 16 bytes ‖ this answer without this field, RFC 8785 JSON): keep"
        " the answer to be able to show later what it was. Not there where a number is too large for JSON.",
    ),
]


class ModelShown(_Shown):
    name: str
    version: str


class MetadataShown(_Shown):
    inference_time_ms: float
    cache_hit: bool
    request_id: UUID


class PredictResponse(_Shown):
    prediction_id: UUID
    model: ModelShown
    result: dict[str, Any]
    confidence: float | None
    explanation: dict[str, Any] | None = Field(None, description="Only where `explain` was asked for.")
    metadata: MetadataShown
    commitment_nonce: CommitmentNonce


class CodeShown(_Shown):
    system: str
    code: str
    name: str


class EntityShown(_Shown):
    text: str
    score: float = Field(
        ge=0, le=1, description="How probably it is right to the letter: its type, its first and its last word."
    )
    start: int = Field(description="First code point of the mention in the text.")
    end: int = Field(description="Code point after its last.")
    assertion: Literal["present", "negated", "possible", "hypothetical", "historical", "family"]
    use: Literal["taken", "allergy", "stopped", "held", "refused", "unknown"] | None = Field(
        None, description="Of a MEDICATION: what the person does with it."
    )
    codes: list[CodeShown] | None = Field(None, description="Only where `normalize` was asked for.")


class SymptomAnalysisResponse(_Shown):
    prediction_id: UUID
    entities: dict[str, list[EntityShown]]
    language: str = Field(
        "en", description="`en`, or the BCP 47 tag of the language that the text is surely written in instead."
    )
    notice: str | None = Field(None, description="Where the text is surely not English: that the model reads no other.")
    model: ModelShown
    metadata: MetadataShown
    commitment_nonce: CommitmentNonce


class RiskShown(_Shown):
    score: float = Field(ge=0, le=1)
    band: str
    change_from_baseline: float | None


class PeriodShown(_Shown):
    earlier: float
    last_3_days: float


class WeekExplanationShown(_Shown):
    """Exact Shapley values: `base_value` and each set of values add up to `score`."""

    method: str
    score: float = Field(description="The score before it is rounded.")
    base_value: float = Field(description="The model's mean score over the weeks compared with.")
    values: dict[str, float] = Field(description="What each of the four readings adds.")
    days: list[float] = Field(description="Oldest first.")
    features_by_period: dict[str, PeriodShown]
    additivity_error: float
    background_sha256: str
    notice: str


class DeteriorationResponse(_Shown):
    prediction_id: UUID
    risk: RiskShown
    explanation: WeekExplanationShown | None = Field(None, description="Only where `explain` was asked for.")
    model: ModelShown
    metadata: MetadataShown
    notice: str
    commitment_nonce: CommitmentNonce


class ProblemShown(_Shown):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: UUID
    errors: list[dict[str, str]] | None = None
    confirmation: str | None = Field(None, description="Of `confirmation-needed`: to be sent back with the same body.")


class BatchResultShown(_Shown):
    id: str
    prediction_id: UUID | None = None
    result: dict[str, Any] | None = None
    confidence: float | None = None
    cache_hit: bool | None = None
    commitment_nonce: CommitmentNonce
    problem: ProblemShown | None = None


class BatchResponse(_Shown):
    model: ModelShown
    items: list[BatchResultShown]
    metadata: dict[str, Any]


class AmendmentRequest(Body):
    """What is to be said beside a record, which itself stays as it is."""

    text: str = Field(min_length=1, max_length=4000)


class AmendmentShown(_Shown):
    """Null where the content was erased on request."""

    created_at: datetime
    principal: str
    text: str | None
    unreadable: bool | None = None


class Amended(_Shown):
    prediction_id: UUID


class RecordShown(_Shown):
    """One record of the trail.

    Each role is shown the fields it needs: who may see that it happened but not what gets no `input_data`, `result` and
    `confidence`; from where a request came is for its author and for auditors.
    """

    prediction_id: UUID
    created_at: datetime
    model: dict[str, str]
    patient_id: str | None
    principal: str
    roles: list[str]
    purpose_of_use: str
    route: str
    request_id: UUID
    ip_address: str | None = None
    user_agent: str | None = None
    confidence: float | None = None
    cache_hit: bool
    inference_time_ms: float
    latency_ms: float
    erased: bool | None = Field(None, description="Whether the content was erased on request.")
    unreadable: bool | None = Field(None, description="There where content does not open: it is not what was sealed.")
    input_data: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    amendments: list[AmendmentShown] | None = None


class HistoryPage(_Shown):
    items: list[RecordShown]
    next_cursor: str | None


class EventShown(_Shown):
    """One entry of the log: a prediction or any other access, without contents."""

    id: UUID
    created_at: datetime
    request_id: UUID
    action: str
    route: str
    status: int
    outcome: str
    principal: str
    roles: list[str]
    patient_id: str | None
    patients: list[str] | None = Field(description="Where it was about several; for auditors.")
    target: str | None = Field(description="What it named: a prediction, a model, a use of break-glass.")
    purpose_of_use: str = Field(description="HL7 v3 PurposeOfUse.")
    ip_address: str | None
    user_agent: str | None


class EventsPage(_Shown):
    items: list[EventShown]
    next_cursor: str | None


class ProofShown(_Shown):
    """RFC 6962: `leaf` hashes to `leaf_hash`, which with `inclusion_proof` hashes to the root in `checkpoint`."""

    prediction_id: UUID
    leaf_index: int
    leaf_hash: str = Field(description="Base64 of SHA-256(0x00 ‖ leaf).")
    leaf: str | None = Field(description="The record as it was hashed, RFC 8785 JSON; null once it is archived.")
    tree_size: int
    inclusion_proof: list[str] = Field(description="Base64, from the leaf up.")
    checkpoint: str = Field(description="A signed note, C2SP tlog-checkpoint.")


class ConsistencyShown(_Shown):
    """RFC 6962: that the tree of one checkpoint is the beginning of the other's."""

    from_size: int = Field(alias="from")
    to_size: int = Field(alias="to")
    consistency_proof: list[str]
    from_checkpoint: str
    to_checkpoint: str


class ModelVersionShown(_Shown):
    version: str
    alias: Literal["champion", "challenger"] | None
    stage: str
    task: str
    framework: str
    digest: str
    loaded: bool
    not_loaded_because: str | None = Field(description="Of a version that is promoted and should answer.")
    created_by: str
    created_at: datetime
    metrics: dict[str, Any]


class ModelSummary(_Shown):
    name: str
    versions: list[ModelVersionShown]


class ModelList(_Shown):
    models: list[ModelSummary]


class ModelVersionDetail(ModelVersionShown):
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    training: dict[str, Any]
    model_card: str
    report: str = Field(description="Where the page on this version is.")


class ModelDetail(_Shown):
    name: str
    versions: list[ModelVersionDetail]
    next_cursor: str | None


class PerformanceShown(_Shown):
    model_name: str
    hours: int
    summary: dict[str, Any]
    series: list[dict[str, Any]]


class StatsShown(_Shown):
    total_predictions: int
    predictions_today: int
    cache_hit_rate_percent: float
    active_models: int
    avg_inference_time_ms: float | None
    redis_enabled: bool
    readiness: Literal["ready", "degraded", "unavailable"]
    models_not_loaded: int
    seal_lag_s: float | None = Field(description="How long the oldest record waits to be sealed; null: not known.")


class BreakGlassStarted(_Shown):
    id: UUID
    expires_at: datetime


class BreakGlassShown(_Shown):
    id: UUID
    clinician: str
    patient_id: str
    reason: str | None = Field(description="Null for administrators, and once the patient's data was erased.")
    unreadable: bool | None = Field(None, description="There where the reason does not open.")
    started_at: datetime
    expires_at: datetime
    above_ceiling: bool = Field(description="One of many; look at it first.")
    reviewed_by: str | None
    reviewed_at: datetime | None


class BreakGlassList(_Shown):
    items: list[BreakGlassShown]
    next_cursor: str | None


class CareTeamShown(_Shown):
    clinician: str
    patient_id: str
    since: datetime
    until: datetime | None
    granted_by: str


class CareTeamList(_Shown):
    items: list[CareTeamShown]
