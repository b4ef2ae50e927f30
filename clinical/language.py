"""Whether a text is surely not English, so that nobody takes what an English model found in it for an answer.

Statistical detectors take "Pt denies CP/SOB" for Catalan and "s/p MI 2018" for Dutch: telegraphic notes have none of
the words that make a language. So only the everyday words of other languages count, those that are no English word, no
name's part and no short form of notes: a text that lacks them gets no warning, whatever else it is.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from typing import Final

_WORD: Final = re.compile(r"[^\W\d_]+")
_FEWEST_WORDS: Final = 5
_FEWEST_FOUND: Final = 3  # different words of the other language
_LEAST_SHARE: Final = 0.15  # of all words, where there are as many that only that language has
_LEAST_SHARE_OF_ALL: Final = 0.25  # else
_AGAINST_ENGLISH: Final = 1.5  # times as many as English ones
_FEWEST_LETTERS: Final = 12  # of another script
_MOST_READ: Final = 4_000  # code points


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


_ENGLISH: Final = _words("""
    the and of to in is was with for has had have her his she he they this that are were been from not but at by as on
    or be who which when after then there also my your their our we you it its if what will would can could should
    patient denies reports history year old left right today since ago days
""")
_OTHERS: Final[dict[str, str]] = {
    "es": """
        que por una pero está tiene muy desde hace cuando dolor fiebre tos cabeza días semanas tengo siento mucho
        mucha años paciente toma estoy también como porque donde hay los las del dos tres cuatro ayer hoy noche mañana
        nada antes después cada veces alergia refiere niega presenta sangre pecho garganta estómago espalda siempre
        ahora cansada cansado náuseas vómitos mareos tomar pastillas médico gracias más sin con para tomo tuvo murió
        abuela niño niña todo todas cuerpo mañanas tensión pastilla fue operación mi han cuello pierna rodilla si ya""",
    "pt": """
        que uma não está tem muito desde quando dor febre tosse cabeça dias semanas tenho sinto anos paciente toma
        estou também como porque onde mas os dos das três quatro ontem hoje noite manhã nada antes depois cada vezes
        alergia refere nega apresenta sangue peito garganta estômago costas sempre agora cansada cansado náuseas
        vômitos tonturas tomar comprimidos médico obrigado mais sem com para há pelo pela minha irmã doente falta ar
        pés braço vacina senti deve beber água até passar foi operação joelho perna meu""",
    "fr": """
        que une est dans avec pour depuis douleur douleurs fièvre toux tête jours semaines je ai mal très mais pas les
        des du sur elle il nous vous ans patiente prend suis aussi comme parce trois quatre hier matin soir nuit rien
        avant après chaque fois allergie présente sang poitrine gorge ventre dos toujours maintenant fatiguée fatigué
        nausées vomissements vertiges médicament comprimés médecin merci plus sans cette qui mon ma mes au aux et
        votre si la le connue contre fait appelez augmente ou est-ce mère père jambe genou grippe vaccin""",
    "it": """
        che una è non ha con per da molto quando dolore febbre tosse testa giorni settimane ho sento anni paziente
        prende sono anche come perché dove ma gli delle della dei nel nella tre quattro ieri oggi notte mattina niente
        prima dopo ogni volte allergia riferisce nega presenta sangue petto gola stomaco schiena sempre adesso stanca
        stanco nausea vomito vertigini compresse medico grazie più senza mio mia il mi fa male stato padre madre
        soffre nessuna nessun solo po quindi era cammina ricoverato lo stata pressione gamba ginocchio""",
    "de": """
        der die das und ist nicht mit für seit schmerzen fieber husten kopfschmerzen tagen wochen ich habe mir sehr
        aber eine einen einem einer sie wir jahre patientin nimmt bin auch wie weil drei vier gestern heute morgen
        nacht nichts vor nach jeden mal allergie klagt über blut brust hals bauch rücken immer jetzt müde übelkeit
        erbrechen schwindel tabletten arzt danke mehr ohne kein keine von dem den bei wurde wird zum zur auf im sich
        meine mutter vater hat ihr war nächste woche operation werden übel schwindelig wunde trocken bein knie
        blutdruck bluthochdruck""",
    "nl": """
        het een van niet met voor sinds pijn koorts hoest hoofdpijn dagen weken ik heb mijn heel maar zij wij jaar
        patiënt patiënte neemt ben ook omdat drie vier gisteren vandaag ochtend nacht niets naar iedere keer allergie
        klaagt over bloed borst keel buik rug altijd nu moe misselijk misselijkheid braken duizelig tabletten arts
        dank meer zonder geen bij werd wordt heeft zijn aan deze de en mevrouw meneer haar gevallen huisarts tegen
        voorgeschreven bel ons als gaat of er moeder vader been knie""",
    "pl": """
        nie jest się na od ból bóle gorączka gorączkę kaszel głowy dni tygodni mam bardzo ale że lat pacjent pacjentka
        przyjmuje jestem też jak ponieważ trzy cztery wczoraj dziś dzisiaj rano noc nic przed po każdy razy alergia
        skarży krew klatce gardła brzucha pleców zawsze teraz zmęczona zmęczony nudności wymioty zawroty tabletki
        lekarz dziękuję więcej bez przez oraz lub dla przy także choruje bierze leki proszę zgłosić badanie krwi
        poniedziałek matka ojciec noga kolano w z""",
    "tr": """
        bir ve bu için çok ağrı ağrısı ateş öksürük baş gün gündür hafta haftadır var yok ama değil yaşında hasta
        alıyor gibi çünkü üç dört dün bugün sabah gece hiç önce sonra her kez alerji şikayeti kan göğüs boğaz karın
        sırt hep şimdi yorgun bulantı kusma dönmesi ilaç doktor teşekkürler daha olan ile benim bana oldu annem babam
        hastalığı yapıyor ilacı aç söyledi ameliyattan azaldı şişlik iğne""",
    "sv": """
        och att det som är inte med för sedan ont feber hosta huvudvärk dagar veckor jag har mycket men en ett hon år
        patienten tar också eftersom tre fyra igår idag morgon natt ingenting före efter varje gång allergi klagar
        blod bröst hals mage rygg alltid nu trött illamående kräkningar yrsel tabletter läkare tack mer utan ingen på
        av""",
    "ro": """
        și este nu cu pentru din durere dureri febră tuse cap zile săptămâni sunt foarte dar că ani pacient pacienta
        ia de asemenea trei patru ieri azi dimineața noaptea nimic înainte după fiecare ori alergie sânge piept gât
        burtă spate mereu acum obosit obosită greață vărsături amețeli pastile medic mulțumesc mai fără""",
    "id": """
        yang dan di dengan untuk tidak saya sakit demam batuk kepala hari minggu sudah sangat tetapi sejak tahun
        pasien minum juga karena tiga empat kemarin pagi malam sebelum setelah setiap kali alergi darah dada
        tenggorokan perut punggung selalu sekarang lelah mual muntah pusing obat dokter terima kasih lebih tanpa ada
        ini itu""",
    "vi": """
        và của là không có tôi bị đau sốt ho đầu ngày tuần rất nhưng từ năm bệnh nhân uống cũng vì ba bốn hôm qua nay
        sáng đêm trước sau mỗi lần dị ứng máu ngực họng bụng lưng luôn bây giờ mệt buồn nôn chóng mặt thuốc bác sĩ cảm
        ơn hơn được với cho""",
}
# Words that names and notes have as well, and letters that English has not: they count for half.
_WEAK: Final[dict[str, str]] = {
    "es": "el la los las de del un y en se lo al su sus fue le les mi",
    "pt": "o os as de do da dos das em um no na se ao aos e minha meu seu sua foi",
    "fr": "la le les de du des un en se ce au aux sa par votre si ou",
    "it": "il la lo gli le di del dei un si al mi ti e nel",
    "de": "der die das des den dem war im am zu ihr mein meine",
    "nl": "de het en een in op te der van hij ze ons haar",
    "pl": "w z na do i o",
    "tr": "da de ne",
    "ro": "de la un o al în pe",
}
_LETTERS: Final[dict[str, str]] = {
    "es": "ñáéíóú",
    "pt": "ãõçáéíóúâêôà",
    "fr": "éèêàçùûîôœ",
    "it": "àèéìòù",
    "de": "äöüß",
    "pl": "ąćęłńóśźż",
    "tr": "ğışçöü",
    "sv": "åäö",
    "ro": "ăâîșşțţ",
}
# English words, parts of names and short forms of notes: they say nothing of a language.
_SAY_NOTHING: Final = _words("""
    ai ani arts au aux av azi ba ben bin cap com come con dans das de dei del den der des di die dos du en est ett
    ha hay heel hep het ho ia il im jak kali kan las lat les los ma mai mal mas med men mer mes met mir mit moe mon
    na nada nausea non nu od os over para pas per plus po qui sang sin sono sunt sur tar tuse van var vier von zij
""")


def _by_word() -> dict[str, dict[str, float]]:
    """What each word counts for each language."""
    found: dict[str, dict[str, float]] = {}
    for tag, table in _WEAK.items():
        for word in _words(table):
            found.setdefault(word, {})[tag] = 0.5
    for tag, table in _OTHERS.items():
        for word in _words(table) - _SAY_NOTHING - _ENGLISH:
            found.setdefault(word, {})[tag] = 1.0
    return found


_WEIGHTS: Final = _by_word()
_TAGS_OF_LETTER: Final[dict[str, tuple[str, ...]]] = {
    letter: tuple(tag for tag, letters in _LETTERS.items() if letter in letters)
    for letter in "".join(_LETTERS.values())
}
_SCRIPTS: Final = {
    "CYRILLIC": "und-Cyrl",
    "GREEK": "el",
    "ARABIC": "und-Arab",
    "HEBREW": "he",
    "DEVANAGARI": "und-Deva",
    "BENGALI": "bn",
    "THAI": "th",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "TAMIL": "ta",
}


def not_english(text: str) -> str | None:
    """The BCP 47 tag of the language that a text is surely written in instead of English; None where nothing is sure.

    Only the first some thousand code points are read. A script that several languages share gives "und-" and its name.
    """
    read = text[:_MOST_READ]
    found = _WORD.findall(read.lower())
    script = _script_of(found)
    if script is not None:
        return script
    if len(found) < _FEWEST_WORDS:
        return None
    english = 0
    weights: dict[str, float] = defaultdict(float)
    whole: Counter[str] = Counter()  # different words that only such a language has
    different: Counter[str] = Counter()
    for word, count in Counter(found).items():
        english += count if word in _ENGLISH else 0
        known = _WEIGHTS.get(word, {})
        for tag, weight in known.items():
            weights[tag] += count * weight
            different[tag] += 1
            whole[tag] += weight == 1
        if not word.isascii():
            for tag in {tag for letter in word for tag in _TAGS_OF_LETTER.get(letter, ())} - known.keys():
                weights[tag] += count * 0.5
                different[tag] += 1
    if not weights:
        return None
    tag = max(weights, key=lambda one: weights[one])
    share = _LEAST_SHARE if whole[tag] >= _FEWEST_FOUND else _LEAST_SHARE_OF_ALL
    least = max(share * len(found), _AGAINST_ENGLISH * english)
    return tag if different[tag] >= _FEWEST_FOUND and whole[tag] and weights[tag] >= least else None


def _script_of(words: list[str]) -> str | None:
    """The language or script of most letters, where they are not Latin."""
    letters = Counter(letter for word in words if not word.isascii() for letter in word)
    other: Counter[str] = Counter()
    for letter, count in letters.items():
        script = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
        if script in _SCRIPTS:
            other[_SCRIPTS[script]] += count
    if other["ja"]:
        other["ja"] += other.pop("zh", 0)
    if not other:
        return None
    tag, count = other.most_common(1)[0]
    total = sum(len(word) for word in words)
    return tag if count >= _FEWEST_LETTERS and count * 2 > total else None
