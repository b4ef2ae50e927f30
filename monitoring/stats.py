"""What was predicted so far, in one glance."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from database.reading import EVERYTHING, seeing

_TOTALS: Final = text("""
    SELECT count(*) AS total_predictions,
           count(*) FILTER (WHERE created_at >= :today) AS predictions_today,
           count(*) FILTER (WHERE cache_hit) AS cache_hits,
           avg(inference_time_ms) AS avg_inference_time_ms
    FROM ml_predictions
""")


async def totals(engine: AsyncEngine) -> dict[str, Any]:
    """Counts over the whole trail; "today" begins at midnight UTC."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    async with seeing(engine, EVERYTHING) as connection:
        found = (await connection.execute(_TOTALS, {"today": today})).mappings().one()
    total = found["total_predictions"]
    average = found["avg_inference_time_ms"]
    return {
        "total_predictions": total,
        "predictions_today": found["predictions_today"],
        "cache_hit_rate_percent": round(100 * found["cache_hits"] / total, 2) if total else 0.0,
        "avg_inference_time_ms": None if average is None else round(average, 3),
    }
