"""Business associate agreements: what has to be signed before data may leave for an external model.

No external model comes with this project. Naming one in EXTERNAL_MODELS needs an agreement that has not expired, under
the signatures of two approvers; otherwise the server does not start.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from uuid import uuid4

import rfc8785
from sqlalchemy import Connection, insert, select

from database.tables import ExternalAgreement
from errors import SetupError
from registry.signatures import Signer, SigningKey

_ROW: Final = ExternalAgreement.__table__.c
_SIGNATURES_NEEDED: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """With whom, for what, until when, and the SHA-256 of the signed document (hex)."""

    model_name: str
    party: str
    scope: str
    document_sha256: str
    expires_on: date

    def statement(self, signer: str, signed_at: datetime) -> bytes:
        """What is signed: RFC 8785 JSON."""
        return rfc8785.dumps(
            {
                "format": "followup-ml/external-agreement/1",
                "model": self.model_name,
                "party": self.party,
                "scope": self.scope,
                "document_sha256": self.document_sha256,
                "expires_on": self.expires_on.isoformat(),
                "signer": signer,
                "signed_at": signed_at.astimezone(UTC).isoformat(),
            }
        )


def sign(connection: Connection, agreement: Agreement, by: Signer) -> None:
    """Put an approver's signature under an agreement."""
    signed_at = datetime.now(UTC)
    connection.execute(
        insert(ExternalAgreement).values(
            id=uuid4(),
            model_name=agreement.model_name,
            party=agreement.party,
            scope=agreement.scope,
            document_sha256=agreement.document_sha256,
            expires_on=agreement.expires_on,
            signer=by.subject,
            signed_at=signed_at,
            signature=by.key.sign(agreement.statement(by.subject, signed_at)),
        )
    )


def require_agreements(connection: Connection, models: Sequence[str], key: SigningKey, *, today: date) -> None:
    """Raises SetupError unless each external model has an agreement in force under two people's signatures."""
    for model in models:
        signers: dict[Agreement, set[str]] = defaultdict(set)
        for row in connection.execute(select(*_ROW).where(_ROW.model_name == model)).mappings():
            agreement = Agreement(
                model_name=row["model_name"],
                party=row["party"],
                scope=row["scope"],
                document_sha256=row["document_sha256"],
                expires_on=row["expires_on"],
            )
            if key.signed(row["signature"], agreement.statement(row["signer"], row["signed_at"])):
                signers[agreement].add(row["signer"])
        if not any(
            len(people) >= _SIGNATURES_NEEDED and agreement.expires_on >= today for agreement, people in signers.items()
        ):
            raise SetupError(
                f"EXTERNAL_MODELS names {model}, for which no business associate agreement is in force under the"
                " signatures of two approvers: followup agreements sign"
            )
