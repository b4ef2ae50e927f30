"""The words that tell a mention's assertion: which category they give, which way they point, and what they end.

Words are lower case and without apostrophes ("dont"), because patients write both ways. Signs are words of their own.
The longest phrase wins, so a pseudo-trigger ("no change") is a longer phrase that gives nothing.
"""

from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

Category = Literal["none", "negated", "possible", "hypothetical", "historical", "family"]
Direction = Literal["forward", "backward", "either"]
# How far to the right: over the clause; over a list without a preposition in it; over one mention and what "and" joins.
Reach = Literal["clause", "list", "phrase"]

ALL_SCOPES: Final[frozenset[Category]] = frozenset({"negated", "possible", "hypothetical", "historical"})
NEGATION_ONLY: Final[frozenset[Category]] = frozenset({"negated"})


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a phrase does. "either" points back when a mention stands right before it, else forward."""

    category: Category
    direction: Direction = "forward"
    reach: Reach = "clause"
    patience: int = 40  # words without a mention after which it is given up
    ends: frozenset[Category] = frozenset()
    findings_only: bool = False  # "the culture was negative", "the pill helped and the pain resolved"
    opens_sentence: bool = False  # "Should fever occur", but not "you should rest"
    orders_only: bool = False  # of what is measured, given or done, and of no finding


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


_RELATIVES: Final = _words("""
    mother father mom mum mommy dad daddy brother sister aunt uncle cousin grandmother grandfather grandma grandpa
    grandparents granddad gran nan nana nanna papa pop stepmother stepfather son daughter husband wife niece nephew
""")
# Only with a possessive: "my kids", but not "112 children were randomized".
_OWN_RELATIVES: Final = _words("""
    kid kids child children parents parent sibling siblings brothers sisters aunts uncles cousins nephews nieces sons
    daughters grandmothers grandfathers spouse partner boyfriend girlfriend
    friend twin relatives relative roommate coworker neighbor neighbour family
    boy girl baby toddler lo youngest oldest eldest hubby fiance fiancee gf bf newborn
""")
_POSSESSIVES: Final = ("", "my", "his", "her", "their", "the", "a", "an", "patients", "our", "your")
_OWNERS: Final = _words("my his her their patients our your")
_TELLING: Final = _words("""
    reports reported states stated says said notes noted noticed notices thinks thought believes describes described
    called calls calling brought worried worries concerned gave gives confirms tells told asks asked wants insists saw
    found endorses mentions mentioned explains recalls feels drove took takes at rang rings phoned texted requests
    requesting wonders stating reporting bringing
""")
_ACCOMPANYING: Final = _words("with by per to tell told from for after ask asked called")

_NEGATED: Final = """
without | w / o | wo | denies | deny | denying | denies any | negative for | neg for | never | never had
absence of | free of | free from | lack of | lacks | lacking | nor | neither | none of | zero | no evidence of
no sign of | no signs of | no history of | no hx of | no h / o | no known | not a k / c / o | not k / c / o
no k / c / o | not a known case of | no s / s of | no signs or symptoms of | no known history of | no suspicion of
no suspicion for | no concern for | no concerns for | not suspicious for | not concerning for | not consistent with
not suggestive of | fails to show | failed to show | failed to reveal | fails to reveal | unremarkable for
ruled out for | rules out | rather than | as opposed to | never any | no more | dont think | doesnt think
do not think | not have | not have any | not report | not report any | not reporting | not endorse | not endorsing
nothing | nobody in the family has | no one in the family has | nobody has | averted | escaped | too early for
too late for | so not | not a candidate for | no indication for | no need for | not in need of | dont need
doesnt need | do not need | did not need | did not require | didnt need | didnt require | does not need
does not require | not complain of | no report of | no reports of | no complaint of | no complaints of | no c / o
didnt find | did not find | did not show | didnt show | does not show | doesnt show | did not reveal
not experiencing | wouldnt call it | would not call it | wouldnt say
"""
_NEGATED_VERB: Final = "not | dont | doesnt | didnt | havent | hasnt | hadnt | isnt | arent | wasnt | werent | aint"
_NEGATED_EITHER: Final = """
no | nil | none | ( - ) | denied | excluded | absent | negative | neg | ruled out | excluding | excludes
never developed | did not develop | didnt develop | does not develop | not develop | did not occur | never seen
never found
"""
_NEGATED_BACK: Final = """
not present | not seen | not found | not noted | not observed | not detected | not identified | not reported
not appreciated | not evident
not demonstrated | not there | nonexistent | never happened | never occurred | never came | didnt occur
did not follow | later excluded | not present anymore
"""
# Of what may be done as well: "dialysis was not required".
_NOT_DONE_BACK: Final = """
not required | not needed | not indicated | not attempted | not performed | not done | not pursued | not necessary
not given | not used | not tolerated | declined | refused | was declined | was refused | abandoned | averted
avoided | never done | never performed | never given | deferred | turned down | not wanted | not keen | wont take it
not offered
"""
_POSSIBLE: Final = """
? | possibly | poss | prob | probably | maybe | perhaps | suspect | suspects | suspecting | suspicious for
suspicion of | suspicion for | concern for | concerning for | concerned for | concerns for | worrisome for
questionable | question of | may be | may well be | might well be | could well be | might be | could be | may have
might have | could have | may represent | might represent | could represent | suggestive of | suggests | suggesting
r / o | rule out | ruling out | to exclude | exclude | evaluate for | evaluation for | eval for | workup for
work up for | work - up for | vs | versus | differential includes | differential diagnosis includes
differential diagnosis | differential | ddx | presumed | presumptive | consider | considering | cannot exclude
cant exclude | could not exclude | cannot rule out | cant rule out | could not rule out | can not rule out
not exclude | unable to exclude | unable to rule out | does not exclude | does not rule out | doesnt rule out
thought to be | thought to have | think its | thinks its | thinks it is | think it is | thinks i have | think i have
thinks it might be | think it might be | think i might have | i think | i guess | looks like | sounds like
appears to be | wonder if | wondering if | wonders if | unsure if | not sure if | unclear if | wondering whether
not certain if | uncertain if | is it | is this | could this be | could it be | can it be | might it be
equivocal for | doubt | doubts | to see if | see if | check if | checking for | check for | testing for | tested for
whether | not sure whether | exposed to | exposure to | exposures to | contact with | contacts with | feels like
indicative of | consistent with but not diagnostic of | not diagnostic of | favor | favors | favored
working diagnosis of | provisional diagnosis of | potential | potentially | seems like | seem to have
seems to have
"""
_POSSIBLE_EITHER: Final = """
possible | likely | probable | suspected | unlikely | not likely | most likely | very likely | less likely | plausible
"""
_POSSIBLE_BACK: Final = """
cannot be excluded | can not be excluded | could not be excluded | cant be excluded | not excluded
cannot be ruled out | can not be ruled out | cant be ruled out | could not be ruled out | not ruled out
not been ruled out | not been excluded | not yet ruled out | in the differential | on the differential
is being considered | was considered | is considered | being worked up | under investigation | remains a possibility
is a possibility | is in question | not confirmed | not yet confirmed | until proven otherwise
"""
_HYPOTHETICAL: Final = """
if | in case of | in case | should you | should he | should she | should they | should it | should the patient
should i develop | return for | return with | call for | watch for | watch out for | watching for | watching out for
monitor for | monitored for | monitoring for | look out for | look for | lookout for | on the lookout for
be aware of | be alert for | as needed for | prn for | side effects include | side effects may include
possible side effects | side effects such as | unless | signs of infection | educated about | education on
counseled on | counselled on | counseled about | warned about | warned of | warned him about | warned her about
warned them about | warned me about | should know about | bring her back for | bring him back for | bring back for
come back for | come back if | come back with | seek help at once for | expect | expect some | fears of
warning signs of | instructed on | worried about | worried i | worried that | worried he | worried she | worry about
worry that | afraid i | afraid that | scared i | scared that | scared of | afraid of | fear of | fearful of
what if | could develop | may develop | might develop | might get | could get | in the event of | whenever
precautions for | to keep from | prevent any | seek care for | go to the er for | go to ed for | report any
notify for | call with | at the first sign of | any sign of | any signs of | seek help for | seek help if
get help for | get checked for
"""
_HYPOTHETICAL_EITHER: Final = "prn | p . r . n | as needed | when needed | if needed"
_HYPOTHETICAL_LIST: Final = """
risk of | risk for | risks of | risk factors for | at risk for | at risk of | to prevent | prevent | prevents
preventing | prevention of | prophylaxis against | prophylaxis for | prophylaxis | chance of | chances of | to avoid
avoid | protect against | protects against | to reduce the risk of | may cause | can cause | could cause | might cause
may include | can include | might include | vaccinated for | immunized for | vaccine for | vaccination for
vaccines for | may lead to | can lead to | could lead to | vaccinated against | vaccination against
immunized against | screen for
screening for | screened for | screening | would cause | would develop | would mean
"""
_HYPOTHETICAL_BACK: Final = """
should prompt | should be reported | prevention | prophylaxis | precautions | screening | risk | would be concerning
if it occurs | if they occur
"""
# What is planned or asked for has not been done.
_ORDERS: Final = """
plan | plan for | plan is | plans for | plan to | plans to | planning | planned | will start | will add | will try
will get | will have | will order | will check | will give | will need | will be given | will attend | will receive
will undergo | will be treated with | will be treated by | will be followed by | shall start | shall arrange
shall add | to start | to begin | to have | to get | to undergo | to receive | needs | need | recommend | recommends
recommended | recommending | suggest | please check | please repeat | please monitor | please arrange | please order
please give | please start | adv | prescribe | will do | commence | wishes to | prefers | please | could you check
could you arrange | schedule | scheduled for | booked for | listed for | referred for | refer for | referral for
assessed for | consented for | consent for | trial of | switch to | change to | discuss | discussed | offered
advise | advised | arrange | order | ordered | check | recheck | obtain | send | due for | start | begin | add
resume | repeat | get | for possible | set up for | waiting for | wait for | interested in | do i need
should i take | can i take | should have | should get | candidate for | screening | talked about | would like
"""
_ORDERS_BACK: Final = """
booked | is booked | requested | is requested | scheduled | is scheduled | planned | is planned | ordered | is due | due
arranged | tomorrow | next week | next month | next visit | next spring | to be done | to be sent | to follow
if no better | if not better | was offered | is offered | offered | under discussion | will be started | will be given
will be done | will be created | recommended | is recommended | is advised | referral | to be arranged
should be repeated | should be tested | should be checked | should be done | on monday | on tuesday | on wednesday
on thursday | on friday | this afternoon | later today | in the morning | is moved forward | sometime
"""
_HISTORICAL: Final = """
history of | hx of | h / o | hx | ho | past medical history | past medical history of | pmh | pmh of | pmhx
pmh significant for | past history of | past hx of | medical history of | surgical history of
medical history significant for | medical history includes | history includes | history significant for
history notable for | past surgical history | psh | previously | used to have | used to get | used to suffer from
history positive for | history : | no longer | no longer has | no longer have | no longer having | remote history of
years ago i had | survivor of | in remission from
"""
# How long something has been there already.
_SO_LONG: Final = """
day history of | days history of | week history of | weeks history of | month history of | months history of
year history of | years history of | hour history of | hours history of | long history of | long - standing history of
longstanding history of | day h / o | week h / o | month h / o | year h / o | day hx of | week hx of | month hx of
year hx of | day history | week history | short history of
"""
# A new statement of a list: "without fever, history of asthma".
_HISTORICAL_ANEW: Final = """
, history of | , hx of | , h / o | , past history of | , past medical history of | , prior history of | with history of
with a history of | with a past history of | with a past medical history of | who has a history of
"""
_HISTORICAL_PHRASE: Final = """
previous | prior | remote | former | formerly | status post | s / p | resolution of | childhood | recovered from
cured of | once had | days post | weeks post | months post | years post | day post | week post | month post | year post
days after my | weeks after my | months after my | after my | since my
"""
_HISTORICAL_EITHER: Final = "resolved | previously"
# "As a child he had asthma", and "asthma as a child".
_HISTORICAL_TIMES: Final = """
as a child | in childhood | as a teenager | as a teen | as a kid | as an infant | as a baby | as a boy | as a girl
as a young man | as a young woman | as a student | in the past | years ago | growing up
"""
_HISTORICAL_BACK: Final = """
years ago | year ago | decades ago | decade ago | months ago | winters ago | summers ago | springs ago | falls ago
seasons ago | last year | has gone | have gone | had gone | has resolved | have resolved | cleared within
clears within | clearing within | in full remission | in complete remission | in partial remission
stopped on its own | settled on its own | cleared on its own | went on its own | healed on its own | settled
has settled | have settled | both gone | healed | has healed | ceased | has ceased | regressed | has regressed
which settled | now resolved | since resolved | resolved completely | subsided | went away | gone away | cleared up
is gone | are gone | in <year> | in remission | in my twenties | in his youth | in her youth | in college
in high school | is over | when i was little | when i was a kid | back in <year> | long ago | ( <year> )
, resolved | all gone | in her twenties | in his twenties | when she was a child | when he was a child
early in life | earlier in life | went into remission | not come back | not recurred | not returned | has passed
in the distant past
"""
_FAMILY: Final = """
family history of | family history | family hx | family hx of | fh | fhx | fh of | familial history of
family history significant for | family history is significant for | family history positive for
family history notable for | family medical history | strong family history of | fam hx | family member with
family members with | family members have
"""
_FAMILY_BACK: Final = """
in the family | runs in the family | run in the family | runs in my family | run in my family | on my mothers side
on my fathers side
"""
# Phrases that hold a trigger's word and mean nothing by it.
_PSEUDO: Final = """
no change | no changes | no change in | no changes in | no significant change | no interval change | no increase
no increase in | no decrease | no decrease in | no improvement | no improvement in | no better | no worse
no worsening | no worsening of | no relief | no relief of | no relief from | no difference | no difference in
no doubt | no wonder | no one | no idea | no matter | no luck | no help | no response | no response to | no effect on
no effect | no reason | no known cause | no cause | no explanation | no obvious cause | no clear cause | no pun
no sooner | no missed doses of | no problem with | no surprise | no big deal | no longer than | not only | not just
not merely | not necessarily | not because of | not relieved | not relieved by | not responding | not responding to
not improving | not improved | not controlled | not well controlled | not helping | not helped | not helping with
not help | not help with | didnt help | didnt help with | didnt help my | did not help | did not help with
did not relieve | doesnt help | doesnt help with | does not help | not getting better | not going away | not better
not resolved | not yet resolved | hasnt resolved | has not resolved | didnt relieve | didnt touch | did not touch
not touching | doesnt touch | wont stop | wont quit | wont go away | doesnt go away | does not go away | didnt go away
hasnt gone away | havent gone away | not gone | isnt gone | not gone away | dont know | do not know | dont know why
dont know if | not sure | not sure why | dont understand | could not | couldnt | can not | cannot | would not
will not | wont | wouldnt | gram negative | gram - negative | negative pressure | hiv negative | rh negative
false negative | not doing well | not feeling well | doesnt work | didnt work | not working | without relief
never without | never goes without | never go without | never leaves home without | never leave home without
never leaves the house without | without improvement | without change | without success | without any relief
not the only | not until | nothing helps | nothing helps with
never leaves | never leave | never misses | never goes | never go
history and physical | history was | family doctor | family physician | family practice
family medicine | family meeting | family is | family at | family reports | host family | social history | as if
even if | if any | if indicated | like no other | since childhood | prior to | previous to | former smoker
prior authorization | previously healthy | previously well | previously reported | natural history of | not unusual
would like | would recommend | likely to | not been able | not able | not being able | dont like | do not like
not bad | not too bad | not as bad | not as bad as | not that bad | not surprisingly | feel like | exclude from
consider increasing | consider stopping | consider starting | i would say | i think i am | i think i need
not take away | not taken away | have not improved | has not improved | hasnt improved | havent improved
not responded to | unresponsive to | doesnt seem to help | prior visit | previous visit | last visit | mother of
father of | parent of | friend of | partner of | not eased | not ease | not aware of | not aware | unaware of
likely from | likely due to | likely secondary to | likely related to | probably from | probably due to
likely caused by | no mask | in no time | no nose blowing | no lifting | no driving
without difficulty | without difficulties | without incident | without assistance | without help
"""
# After these nothing from before holds; then: after these a negation does not hold.
_ENDS_ALL: Final = """
but | however | although | though | yet | nevertheless | presents with | presented with | presenting with
presents for | presenting for | complains of | complaining of | complained of | c / o | now | currently | today
here with | here for | admitted with | admitted for | comes in with | came in with | came in for | positive for | +
( + ) | reports | endorses | endorsed | admits to | is having | is experiencing | found to have | diagnosed with
who presents | who presented | , with | seen for | , has | , only | , just | , on | is positive for | was positive for
remarkable for | significant for | notable for | presents | presented | developed | ongoing | current | except
except for | apart from | aside from | other than | besides | save for | with the exception of | still | instead
at present | confirmed | this morning | tonight | new onset | reported | started on | treated with | showed | shows
reveals | revealed | confirms
"""
_ENDS_NEGATION: Final = """
because | because of | caused | causing | causes | due to | secondary to | after | when | while | since | despite
cause | cuz | bc | which | whereas | from | on account of | following | to treat | , mild | , severe | , some | so
, old | , prior | , previous | , new | , worsening | , increasing | , persistent | given | only | just | for his
for her | for my | for their | for your
"""
# "No cough, fever present": of a mention right before, where no negation stands in the same part of the list.
_AFFIRMS_BACK: Final = """
present | is present | are present | was present | noted | was noted | is noted | reported | positive | is positive
was positive | seen | was seen | observed | ongoing | persists | continues | remains | worsening
"""


def _phrases(table: str) -> list[tuple[str, ...]]:
    return [
        tuple(phrase.split()) for line in table.strip().splitlines() for phrase in line.split("|") if phrase.strip()
    ]


def _build() -> dict[tuple[str, ...], Trigger]:
    """All phrases by their words; where two tables have the same phrase, the later one wins."""
    built: dict[tuple[str, ...], Trigger] = {}
    for table, trigger in (
        (_ENDS_ALL, Trigger("none", ends=ALL_SCOPES)),
        (_ENDS_NEGATION, Trigger("none", ends=NEGATION_ONLY)),
        (_NEGATED, Trigger("negated")),
        (_NEGATED_VERB, Trigger("negated", patience=6)),
        (_NEGATED_EITHER, Trigger("negated", "either", findings_only=True)),
        (_NEGATED_BACK, Trigger("negated", "backward", findings_only=True)),
        (_POSSIBLE, Trigger("possible", reach="list")),
        (_NOT_DONE_BACK, Trigger("negated", "backward")),
        ("query", Trigger("possible", reach="list", opens_sentence=True)),
        (_POSSIBLE_EITHER, Trigger("possible", "either", reach="list")),
        (_POSSIBLE_BACK, Trigger("possible", "backward")),
        (_HYPOTHETICAL, Trigger("hypothetical")),
        ("should", Trigger("hypothetical", opens_sentence=True)),
        (_ORDERS, Trigger("hypothetical", reach="list", patience=4, orders_only=True)),
        (_ORDERS_BACK, Trigger("hypothetical", "backward", reach="list", orders_only=True)),
        (_HYPOTHETICAL_EITHER, Trigger("hypothetical", "either", reach="list", findings_only=True)),
        (_HYPOTHETICAL_LIST, Trigger("hypothetical", reach="list")),
        (_HYPOTHETICAL_BACK, Trigger("hypothetical", "backward")),
        (_HISTORICAL, Trigger("historical")),
        (_SO_LONG, Trigger("none")),
        (_HISTORICAL_ANEW, Trigger("historical", ends=NEGATION_ONLY)),
        (_HISTORICAL_TIMES, Trigger("historical", "either", patience=8, findings_only=True)),
        (_HISTORICAL_PHRASE, Trigger("historical", reach="phrase", patience=4)),
        (_HISTORICAL_EITHER, Trigger("historical", "either", reach="phrase", patience=4, findings_only=True)),
        (_HISTORICAL_BACK, Trigger("historical", "backward", findings_only=True)),
        (_FAMILY, Trigger("family")),
        (_FAMILY_BACK, Trigger("family", "backward")),
        (_PSEUDO, Trigger("none")),
    ):
        built.update(dict.fromkeys(_phrases(table), trigger))
    for relative, owner in product(sorted(_RELATIVES | _OWN_RELATIVES), _POSSESSIVES):
        if relative in _RELATIVES or owner in _OWNERS:
            _add_relative(built, relative, (owner, relative) if owner else (relative,))
    return built


def _add_relative(built: dict[tuple[str, ...], Trigger], relative: str, whose: tuple[str, ...]) -> None:
    """A relative has what is said next, unless the relative only tells of the patient or comes along."""
    built.setdefault(whose, Trigger("family"))
    if not relative.endswith("s"):
        built.setdefault((*whose[:-1], relative + "s"), Trigger("family", reach="phrase", patience=4))  # "his mother's"
    built[("in", *whose)] = Trigger("family", "backward")
    built[("(", *whose, ")")] = Trigger("family", "backward")
    built.update({(*whose[:-1], relative + "s", word): Trigger("family") for word in ("side", "family")})
    built.update({(word, *whose): Trigger("none") for word in _ACCOMPANYING})
    built.update({(*whose, word): Trigger("none") for word in _TELLING})
    built.update({(*whose, "is", word): Trigger("none") for word in ("worried", "concerned", "here", "present", "at")})
    built.update({(*whose, word): Trigger("negated") for word in ("denies", "denied")})


TRIGGERS: Final = _build()

# Between a mention and a trailing trigger: "pneumonia was ruled out", "fever has not been suspected".
AUXILIARIES: Final = _words("""
    is are was were be been being has have had also now since completely fully all eventually finally it looks seems
    felt thought - – — :
""")
RELATIVE_PRONOUNS: Final = _words("which that who both all")
OWN_SUBJECT: Final = _words("i im ive he shes hes she we they my pt patient you your")
PATIENT: Final = _words("i im ive my pt pts patient patients")
# What may stand between the mentions of a list.
LIST_WORDS: Final = _words(", and or nor / & vs versus a an the new other any")
VERBS: Final = _words("""
    is are was were has have had feels felt feel started starts began begins developed develops complains reports
    reported presented came comes got gets hurts hurt aches continues continued persists persisted remains remained
    became becomes took takes take noticed improved improving worsened went goes gave gives given ordered start
    continue give call return go come seek stop contact see use keep died told showed shows reveals revealed
    demonstrated demonstrates admits endorses endorsed describes described says states stated does did do im ive shes
    hes youre dont didnt doesnt underwent received lives works walks
""")
HAVING: Final = _words("""
    has have having got gets getting feels feeling experiencing experiences reports endorses complains describes shows
    showed reveals revealed
""")
AFFIRMING: Final = frozenset(_phrases(_AFFIRMS_BACK))
# An order for when it is needed says that what it is for may come.
WHEN_NEEDED: Final = Trigger("hypothetical", reach="list", patience=4)


def _slips() -> dict[str, str]:
    """Long words of triggers as a hurried hand writes them: two letters changed places, or one left out inside.

    "dneies" denies as "denies" does. A word that is another word is not taken for a slip.
    """
    known = {word for words in TRIGGERS for word in words} | AUXILIARIES | OWN_SUBJECT | PATIENT | LIST_WORDS | VERBS
    found: dict[str, str] = {}
    for word in sorted(word for word in known if word.isalpha() and len(word) >= _SHORTEST_SLIP):
        slips = [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)]
        if len(word) > _SHORTEST_SLIP:
            slips += [word[:at] + word[at + 1 :] for at in range(1, len(word) - 1)]
        found.update((slip, word) for slip in slips if slip not in known and slip not in _WORDS_OF_THEIR_OWN)
    return found


_SHORTEST_SLIP: Final = 5
_WORDS_OF_THEIR_OWN: Final = _words("""
    bothers bought cases medial patent stars
    nuclear stats three begin trail quite angle dairy sacred casual united
    bother rater fried fiend stared cased sates crated crying clams diving retuned retuning sewing serve severs wiring
    carring chancing stated staring sating caring curing posses reveal refuse stoped cites cousin grand mater farther
""")
SLIPS: Final = _slips()
