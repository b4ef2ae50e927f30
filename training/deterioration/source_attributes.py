"""The 31 source attributes that ONC's HTI-1 rule asks of a predictive intervention (45 CFR 170.315(b)(11)(iv)(B)).

Nine groups, in the rule's order. What this project cannot know (a site's monitoring, an external validation) is said to
be missing rather than left out.
"""

from collections.abc import Mapping
from typing import Any

from clinical.vitals import FEATURES, HORIZON_DAYS, WINDOW_DAYS

Attributes = dict[str, dict[str, str]]
_NONE_YET = "none yet; a site that trains or deploys this model has to add it"


def of_deterioration(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> Attributes:
    """Group to attribute to what holds for one trained version."""
    people = "simulated people" if training["simulated"] else "people of the site that trained it"
    auroc = f"AUROC {metrics['auroc']:.3f} ({metrics['auroc_low']:.3f} to {metrics['auroc_high']:.3f})"
    told = [group for group in metrics["subgroups"] if "auroc" in group]
    by_group = (
        "; ".join(f"{group['group']}: AUROC {group['auroc']:.3f}" for group in told) or "too few declines to tell"
    )
    readings = ", ".join(feature.name for feature in FEATURES)
    return {
        "Details and output": {
            "developer and contact": "the Followup ML project; the site that trained this version signs for it",
            "funding": "none declared",
            "value that is the output": f"probability of a decline within {HORIZON_DAYS} days, 0 to 1, and a band",
            "kind of output": "prediction",
        },
        "Purpose": {
            "intended use": "wellness monitoring and change detection in home readings",
            "intended people": "adults who record their own readings at home",
            "intended users": "the people themselves and their care team",
            "role in decisions": "informs; it replaces nobody's judgement",
        },
        "Cautioned out-of-scope use": {
            "tasks and people warned against": "naming a condition, children, hospital wards, any automatic action",
            "known risks and limits": "it knows no history, age, medicine or condition; few readings say less",
        },
        "Development and input features": {
            "inclusion and exclusion": (
                f"weeks with a reading, fully observed {HORIZON_DAYS} days on, no decline going on; left out: "
                + ("; ".join(f"{reason} {count}" for reason, count in training["left_out"].items()) or "none")
            ),
            "variables used": f"{WINDOW_DAYS} days of {readings}, and what is missing; none of race, sex, age, origin",
            "who is represented": f"{training['patients']} {people}; the data carry no demographic variable",
            "relevance to where it is used": (
                "none beyond the simulator" if training["simulated"] else "the same site's home readings"
            ),
        },
        "Fairness in development": {
            "approach": "figures by completeness and by usual severity; no demographic variable to judge by",
            "reduction of bias": "each person's distance from their own week is an input; probabilities are calibrated",
        },
        "External validation": {
            "data source": _NONE_YET,
            "who did it": _NONE_YET,
            "who is represented": _NONE_YET,
            "process": _NONE_YET,
        },
        "Measures of performance": {
            "validity in data of the same source": f"{auroc}, slope {metrics['calibration_slope']:.2f}",
            "fairness in data of the same source": by_group,
            "validity in external data": _NONE_YET,
            "fairness in external data": _NONE_YET,
            "evaluations of its use": _NONE_YET,
        },
        "Maintenance and monitoring": {
            "how validity is monitored": "latency and scores on the dashboard; outcomes are the site's to compare",
            "local validity": _NONE_YET,
            "how fairness is monitored": _NONE_YET,
            "local fairness": _NONE_YET,
        },
        "Updates": {
            "how and when it is updated": "by training again; every version is signed, approved and kept",
            "how a known risk is put right": "the version is rejected or rolled back within seconds, on record",
        },
    }
