"""Notes as people write them: what headings, lines, boxes, signs and answers say of a mention, and what they do not."""

import pytest

from clinical.entities import Assertion
from clinical.markup import plain
from clinical.medication_use import rule_on
from clinical.note_structure import statements
from tests.unit.test_assertion import Marked

_LETTER: dict[str, Assertion] = {
    "p": "present",
    "n": "negated",
    "?": "possible",
    "h": "hypothetical",
    "o": "historical",
    "f": "family",
}


def read(marked: str) -> tuple[str, list[Marked], list[Assertion]]:
    """A note with its mentions as {n:words}; a mention is a SYMPTOM unless it begins with its type, {p:DOSAGE=prn}."""
    text, places, expected = "", [], []
    rest = marked
    while "{" in rest:
        before, _, rest = rest.partition("{")
        inner, _, rest = rest.partition("}")
        letter, _, words = inner.partition(":")
        kind, _, given = words.rpartition("=")
        text += before
        places.append(Marked(kind or "SYMPTOM", len(text), len(text) + len(given)))
        text += given
        expected.append(_LETTER[letter])
    return text + rest, places, expected


NOTES = {
    "words before a colon that deny": [
        "Patient denies the following:\n{n:chest pain}\n{n:dizziness}\n{n:syncope}",
        "The following are absent: {n:fever}, {n:cough}.",
        "Pt has none of the following: {n:fever}, {n:cough}",
        "Symptoms not present: {n:fever}, {n:rash}",
        "Negative: {n:fever}, {n:cough}\nPositive: {p:dysuria}",
        "Fever, chills and {n:cough} were denied",
    ],
    "a short form between a finding and its verdict": [
        "{n:CONDITION=Deep vein thrombosis} ({n:CONDITION=DVT}) ruled out.",
        "{p:Nausea} ({p:N}) and {p:vomiting} ({p:V})",
    ],
    "how bad and how long is told of what is there": [
        "No {n:fever}, {p:SEVERITY=severe} {p:headache} for {p:DURATION=2 days}.",
        "No {n:fever}, {p:cough} for {p:DURATION=3 days}.",
        "No {n:fever}, {n:nausea} or {n:vomiting} for {n:DURATION=3 days}.",
    ],
    "a patient under a relatives' heading": [
        "Family history: mother with {f:CONDITION=lupus}. Patient reports {p:joint pain}.",
    ],
    "blanks": [
        "{p:Cough}                                        \nNo {n:fever}",
    ],
    "answers behind": [
        "{n:Headache} nil | {n:Visual disturbance} nil | {p:ankle swelling} yes",
        "SE: {p:drooling} y, {p:sedation} y, {n:constipation} n, {n:sore throat} n",
        "{n:PROCEDURE=Pacemaker} N\n{n:PROCEDURE=Aneurysm clip} N\n{p:CONDITION=Asthma} Y",
        "{n:blood in stool} (no). {p:fever} (yes, 38.9). {n:rash} (no).",
        "{n:Slough} nil. {n:Odour} nil. {p:Exudate} low.",
        "{n:CONDITION=Jaundice} ever ✗\n{p:CONDITION=Malaria} ever ✓",
        "no {n:nodules}, no {n:dry eyes}, {p:dry mouth} +",
        "Nil {n:bruising}, nil {n:swelling}. {p:pain} on standing",
        "{n:Cough} ......... no\n{n:Sputum} ........ no\n{p:Dyspnoea} ...... yes",
        "{n:Self harm} - denies\n{p:low mood} - yes",
        "{n:Cough} >2 weeks  no[x] yes[ ]\n{p:Night sweats}  no[ ] yes[x]",
        "{n:Saddle numbness}  Y / (N)\n{p:Night pain}  (Y) / N",
        "{n:CONDITION=VT}: 0 episodes\n{n:vomiting}: x0",
        "1) {p:wheeze}: YES\n2) {n:night waking}: NO\n3) {n:limits}: NO",
        "NEURO: sedated, no {n:seizures} | RESP: {p:secretions} thick",
        "Dr: Any {n:chest pain}?\nPt: No ma'am.",
        "Patient denies\n{n:fever} or chills",
    ],
    "offered and needed": [
        "You don't need {n:MEDICATION=antibiotics} for this",
        "{n:MEDICATION=Pethidine} was declined.",
    ],
    "reactions": [
        "Allergies: {n:MEDICATION=penicillin} ({o:hives}, {o:wheeze}), {n:MEDICATION=sulfa} - {o:rash}\n"
        "Meds: {p:MEDICATION=aspirin}",
    ],
    "signs behind": [
        "{n:rash} (-), {p:itching} (+)",
        "HEENT: {n:blurry vision} (-), {p:diplopia} (+), {n:tinnitus} (-)",
        "{p:dysuria}+ {p:frequency}+ {n:hematuria}- {n:fever}-",
        "{p:Fever} +, {p:cough} +, {n:rigors} -, {p:myalgia} ++",
        "{p:guarding} +ve, {n:jaundice} -ve. Imp {p:CONDITION=cholecystitis}.",
        "{p:TEST=HIV} -ve, {p:TEST=HBsAg} +ve",
        "+{p:nausea}, denies {n:fever}, {n:chills}",
        "+ {p:cough}\n+ {p:runny nose}\n- {n:fever}\n- {n:sore throat}",
    ],
    "yes or no in boxes, rows and dialogues": [
        "{n:CONDITION=Diabetes} [ ] yes [x] no\n{p:CONDITION=Asthma} [x] yes [ ] no\n{n:Seizures} [ ] yes [x] no",
        "{n:Fever} ..... no\n{p:Cough} ..... yes",
        "{n:Fever} | no\n{p:Cough} | yes",
        "{n:Rash} - denied\n{p:Cough} - yes",
        "Doctor: Is she {n:vomiting}?\nMother: no\nDoctor: {p:Diarrhea}?\nMother: yes",
    ],
    "headings that are verdicts": [
        "Pertinent negatives: {n:melena}, {n:weight loss}.\nPertinent positives: {p:early satiety}",
        "Denies: {n:fever}, {n:chills}. Has {p:cough}.",
        "Denies:\n- {n:fever}\n- {n:cough}\n\n{p:rash}",
        "DDx: {?:CONDITION=sepsis}, {?:CONDITION=meningitis}",
        "{?:CONDITION=cellulitis} vs {?:CONDITION=gout}",
    ],
    "headings without a colon": [
        "Past medical history\n- {o:CONDITION=asthma}\n- {o:CONDITION=gout}\n\nToday\n- {p:cough}",
        "PMH - {o:CONDITION=asthma}, {o:CONDITION=gout}\nExam - {p:wheezing}",
        "**FAMILY HISTORY**\n{f:CONDITION=stroke}",
    ],
    "plans": [
        "Plan: {h:TEST=CT}, start {h:MEDICATION=heparin}, continue {p:MEDICATION=aspirin}",
        "P: {h:PROCEDURE=physical therapy}, {h:TEST=MRI} if not better",
        "Please check {h:TEST=potassium} in a week.",
        "{h:TEST=MRI} and {h:TEST=EEG} booked, {p:headache} same",
        "Recommend {h:PROCEDURE=biopsy}.",
        "Scheduled for {h:PROCEDURE=appendectomy}; {p:pain} 6/10",
    ],
    "what findings say does not go on to tests and drugs": [
        "no {n:fever}, {p:TEST=chest x-ray} today, {p:MEDICATION=cefazolin} 2 g",
        "no {n:seizures} on {p:TEST=EEG}",
        "hx {o:CONDITION=hypertension}, {p:TEST=HR} 110",
        "denies {n:fever} or {n:MEDICATION=ibuprofen} use",
    ],
    "how long": [
        "a {p:DURATION=ten-day} history of {p:chest pain}",
        "2-week history of {p:jaundice}",
    ],
    "not done": [
        "{n:PROCEDURE=Dialysis} was not required.",
        "{n:TEST=MRI} not needed",
        "{n:PROCEDURE=Surgery} declined",
        "too early for {n:CONDITION=preeclampsia}",
    ],
    "a relative's": [
        "his mother's {f:CONDITION=diabetes}",
        "my dads {f:CONDITION=lung cancer}",
        "nobody in the family has {n:CONDITION=asthma}",
    ],
    "lines in lower case": [
        "here for {p:vomiting} x 2 days after a cruise. no {n:blood in stool}\n{p:cramps} come and go",
    ],
    "a heading before a negation": [
        "Skin: no {n:rash}. Neuro: no {n:headache}, no {n:dizziness}.",
        "CXR: no {n:pneumonia}",
        "Assessment: No evidence of {n:pneumonia}.",
        "Resp: denies {n:wheezing}",
        "Wife states: no {n:fever} at home",
        "{p:ANATOMY=Neck}: no {n:pain}.",
        "GI: No {n:nausea}, {n:vomiting} or {n:diarrhea}.",
        "PMH: no {n:diabetes}",
        "{p:TEST=CXR}: no {n:pneumonia}, no {n:effusion}",
        "ROS: Constitutional: no {n:fever}, {n:chills}. CV: no {n:chest pain}. Resp: {p:cough}, no {n:wheezing}.",
        "Constitutional: Denies {n:fever}, {n:chills} and {n:weight loss}\nCV: Denies {n:chest pain}",
        "EXAM\nLungs: clear, no {n:wheezes}\nAbd: soft, no {n:tenderness}\nExt: {p:edema}",
    ],
    "bullets": [
        "Symptoms: - {p:cough} - {p:fever} - no {n:rash}",
        "- {p:cough}\n- {p:fever}\n- no {n:rash}",
        "* no {n:cough}\n* {p:fever}",
        "1. {p:cough}\n2. no {n:fever}\n3. {p:rash}",
        "Complaints: 1) {p:cough} 2) no {n:fever} 3) {p:rash}",
        "• denies {n:nausea}\n• {p:headache} for 3 days",
    ],
    "lines": [
        "no {n:fever}\n{p:cough} for 3 days",
        "no known {n:allergies}\n{p:asthma}\n{p:hypertension}",
        "no {n:cough}\n{p:MEDICATION=methotrexate} 10 mg weekly",
        "FH: {f:CAD}\nROS: {p:cough}, {p:fever}",
        "She has had no {n:fever}, {n:chills} or {n:night sweats},\n{n:vomiting} or {n:diarrhea}.",
        "The patient was seen in clinic today and she does not report any {n:nausea}\nor {n:vomiting} at all.",
        "denies\n{n:fever}",
        "{p:Fever}\n{p:Cough}\nNo {n:rash}\n{p:Headache}",
    ],
    "present illness is not history": [
        "History of present illness: {p:cough} and {p:fever} for 3 days.",
        "Hx: 2 days of {p:vomiting}",
        "HPI: {p:cough}. PMH: {o:asthma}.",
        "Chief complaint: {p:headache}",
    ],
    "sections": [
        "FHx: {f:CAD} (father). PMH: {o:asthma}. Current: {p:cough}.",
        "Past medical history: {o:asthma}. Today has {p:cough}.",
        "PMH: {o:asthma}, {o:HTN}. Meds: {p:MEDICATION=albuterol}. Exam: {p:wheezing}.",
        "PMH:\n{o:Diabetes}\n{o:Asthma}\n\n{p:Cough} for 3 days",
        "PMH:\n- {o:Diabetes}\n- {o:Asthma}\nHPI:\n- {p:cough}",
        "Past medical history: {o:diabetes}\nComplains of {p:cough}",
        "Family history: mother {f:breast cancer}, father {f:MI}\nSocial: smokes\nExam: {p:wheezing}",
        "Return precautions: {h:fever}, {h:vomiting}",
        "PMH: {o:asthma}, {o:HTN}. She currently has {p:cough}. {p:Fever} too.",
    ],
    "questions and answers": [
        "{n:Fever}? No\n{p:Cough}? Yes",
        "Q: Are you having {n:chest pain}? A: No",
        "Any {n:nausea}? Denies.",
        "Q: Do you have {p:cough}?\nA: Yes, since Monday",
        "{n:Fever}? no. {p:Cough}? yes. {p:Rash}.",
        "Any {n:fever}? No, but {p:cough} since Monday.",
        "{?:Fever}? Not sure.",
        "Do you have {n:fever}?\nNo\nDo you have {p:cough}?\nYes",
    ],
    "keys": [
        "{n:Nausea} (Y/N): N",
        "{n:Fever}: -\n{p:Cough}: +",
        "{n:N}/{n:V}/{n:D}: none. {n:CP}/{n:SOB}: denies.",
        "{n:Fever}: no, {p:Cough}: yes, {n:Rash}: no",
        "{n:Nausea}, {n:vomiting}, {n:diarrhea}: none",
        "{p:Headache}: positive\n{n:Photophobia}: negative",
        "{n:fever}: denied. {p:cough}: present",
    ],
    "boxes and signs": [
        "{n:Pain}: [ ] yes [x] no",
        "{p:Pain}: [x] Yes [ ] No\n{n:Fever}: [ ] Yes [x] No",
        "[x] {p:Cough}\n[ ] {n:Fever}",
        "☑ {p:headache} ☐ {n:dizziness}",
        "(-) {n:rash} (+) {p:itching}",
        "+ve for {p:cough}, -ve for {n:fever}",
        "+ {p:nausea}, - {n:vomiting}",
        "[ ] {n:Fever} [X] {p:Cough} [ ] {n:Rash}",
        "{n:Fever}: ☐ Yes ☑ No",
    ],
    "scope": [
        "No {n:cough}, {p:fever} present.",
        "He does not have any {n:MEDICATION=inhaler} for his {p:asthma}",
        "{p:Swelling} has no associated {n:redness}",
        "no {n:fever}, {n:chills} or {n:rash}",
        "There is {p:pain} with no {n:radiation}",
    ],
    "not now, not this person": [
        "Side effects of {p:MEDICATION=lisinopril} may include {h:cough}.",
        "Vaccinated for {h:influenza}.",
        "Rx {p:MEDICATION=ondansetron} for {h:nausea} {p:DOSAGE=prn}",
        "{p:MEDICATION=Ibuprofen} {p:DOSAGE=400 mg prn} for {h:pain}",
        "Exposed to {?:COVID-19} at work.",
        "{f:Diabetes} (mother)",
        "{o:fever} has gone",
        "As a child he had {o:asthma}",
        "In childhood she suffered from {o:ear infections}",
    ],
    "slips of the pen": [
        "Pt dneies {n:cough} and {n:fever}",
        "wihtout {n:fever}, hsitory of {o:asthma}",
        "posible {?:pneumonia}",
        "patent airway, {p:cough}; medial {p:knee pain}",
    ],
    "addresses and markup": [
        "See https://example.org/page?id=3 for {p:fever}",
        "<p>No {n:fever}</p><p>{p:Cough}</p>",
        "<ul><li>no {n:rash}</li><li>{p:itching}</li></ul>",
        "{\\rtf1\\ansi No fever\\par {p:Cough}\\par}".replace("{\\rtf1", "\\rtf1").replace("\\par}", "\\par "),
        "<b>Skin:</b> no {n:rash}<br>{p:Fever}",
    ],
}


@pytest.mark.parametrize(("kind", "note"), [(kind, note) for kind, notes in NOTES.items() for note in notes])
def test_a_note_is_read_as_it_is_written(kind: str, note: str) -> None:
    text, places, expected = read(note)
    assert [ruling.assertion for ruling in rule_on(text, statements(plain(text)), places)[1]] == expected
