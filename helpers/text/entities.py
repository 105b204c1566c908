"""Names in a text, each with its kind: drugs, molecules, antibodies, cells, diseases; and what a sentence defines."""

import re
from functools import lru_cache
from typing import NamedTuple

from helpers.papers import Paper, Topic

CHECK_TAGS = re.compile(  # MeSH headings that say who was studied or how, not what about
    r"(?:Humans|Animals|Male|Female|Adult|Aged|Aged, 80 and over|Middle Aged|Young Adult|Adolescent|Child"
    r"|Child, Preschool|Infant|Infant, Newborn|Mice|Rats|Pregnancy|Time Factors|Treatment Outcome"
    r"|Prognosis|Risk Factors|Comorbidity|Retrospective Studies|Prospective Studies|Cohort Studies"
    r"|Case-Control Studies|Cross-Sectional Studies|Incidence|Follow-Up Studies|Double-Blind Method"
    r"|Severity of Illness Index|Surveys and Questionnaires|Prevalence|Biomarkers"
    r"|Reproducibility of Results|Sensitivity and Specificity|Age Factors|Sex Factors|Risk Assessment"
    r"|Cells, Cultured|Disease Models, Animal|United States|United Kingdom|Mice, Inbred C57BL"
    r"|Practice Guidelines as Topic)$"
)
MEDICAL = re.compile(
    r"\w+(?:itis|osis|emia|oma|pathy|plasia|penia|algia|uria|ine|ase|gen|globulin|kine|mab|nib|one|ide|statin)s?$",
    re.IGNORECASE,
)
ANTIBODY = re.compile(
    r"\b(?:anti-[\w/-]+ (?:auto)?antibod(?:y|ies)|rheumatoid factor|ANCAs?\b|ACPAs?\b|AMAs?\b|ANAs?\b|Ig[GAME]\d?\b"
    r"|(?:antinuclear|antiphospholipid|antimitochondrial|anticardiolipin|antineutrophil cytoplasmic)"
    r" (?:auto)?antibod(?:y|ies))"
)
DRUG = re.compile(
    r"\b(?!(?:ex|con|ac|inter|per|pre)cept\b|interleukin\b|interferons?\b|quantiferon\b)"
    r"(?:\w{2,}(?:mab|tinib|citinib|cept|limus|prednis(?:one|olone)|methasone|statins?|gliptins?|gliflozins?|formin"
    r"|platin|cycline|mycin|floxacin|parin|prazoles?|sartans?|salazine|salamine|sidomide|nimod|trexate|fumarate"
    r"|leukin|ferons?|cillin)"
    r"|insulin|(?:hydroxy)?chloroquine|cyclophosphamide|mycophenolate mofetil|azathioprine|apremilast|cyclosporine?"
    r"|ciclosporin|colchicine|leflunomide|teriflunomide|acitretin|dapsone|curcumin|thiamine|cortisol|testosterone"
    r"|ursodeoxycholic acid|obeticholic acid|glatiramer acetate|cladribine|thiopurines?|streptozotocin|imiquimod"
    r"|intravenous immunoglobulins?|plasma exchange|plasmapheresis|heparin|aspirin|vitamin [A-EK]\d*|probiotics?"
    r"|prednisone|prednisolone|glucocorticoids?|corticosteroids?|anakinra|avacopan|voclosporin|eltrombopag"
    r"|romiplostim|levothyroxine|thalidomide|cuprizone)\b",
    re.IGNORECASE,
)
MOLECULE = re.compile(
    r"(?<![\w-])(?:IL-?\d{1,2}(?:[A-F]|[αβ])?|IFN-?[αβγλ]?\d?|TNF-?[αβ]?|TGF-?β\d?|VEGF(?:-?[A-D])?|miR-\d+[\w-]*"
    r"|HLA-[A-Z]+\d*(?:\*\d+(?::\d+)*)?|NF-κB|(?:interleukin|interferon)[- ](?:\d+\w?|alpha|beta|gamma|[αβγ])"
    r"|STAT\d\w?|JAK\d?|CX3C[LR]1|BAFF|TWEAK|CRP|C-reactive protein|calprotectin|ferritin|leptin|adiponectin|albumin"
    r"|fibrinogen|caspase-?\d|p-?STAT3|mTOR|AKT|PI3K|PD-L?1|CTLA-?4|F(?:OXP|oxp)3|RORγt|T-bet"
    r"|[A-Z]{2,6}\d{1,3}[A-Z]?\d?)(?: receptors?(?:-\d|-(?:associated|interacting|related) \w+(?: \d)?)?"
    r"| ligand(?: \d)?)?(?![\w+⁺⁻]|-\w)"
)
NO_MOLECULE = re.compile(
    r"(?:COVID|SARS|DAS|SF|ICD|PHQ|EQ|HAQ|PGA|PASI|ACR|MRI|EDSS|BASDAI|SRI|ASAS|DMF|CDAI|UC|CD|DM|DN|OCT|VAS|GAD|QOL"
    r"|FEV|US|PM|RAW|PAM|BWF|SV|HEK|MES|THP|HK|LC|HMB|IC|PA|ML|NS)-?\d"
)
CELL = re.compile(
    r"\b(?:(?:CD\d+[⁺⁻+-]? ?)*(?:regulatory |memory |na[iï]ve |effector |cytotoxic |follicular helper "
    r"|helper )?[TB]"
    r" cells?|NK cells?|Th\d+ cells?|Treg(?:s| cells?)?|natural killer cells?|plasma cells|plasmablasts"
    r"|keratinocytes|melanocytes|(?:plasmacytoid )?dendritic cells|macrophages?|monocytes|neutrophils"
    r"|eosinophils|basophils|mast cells|platelets|fibroblast-like synoviocytes|synoviocytes|fibroblasts"
    r"|osteoclasts|chondrocytes|podocytes"
    r"|microglia|astrocytes|oligodendrocytes|lymphocytes|granulocytes|mesenchymal (?:stem|stromal) cells"
    r"|endothelial cells"
    r"|epithelial cells|β[- ]cells|beta cells)(?![\w⁺⁻])",
    re.IGNORECASE,
)
DISEASE = re.compile(
    r"\b(?:hypertension|hyperlipid\w+|dyslipid\w+|obesity|asthma|depression|anxiety|osteoporosis|stroke|tuberculosis"
    r"|pneumonia|sepsis|lymphoma|melanoma|(?:colorectal|breast|lung|skin) cancer|herpes zoster|hepatitis [BC]"
    r"|type 2 diabetes|heart failure|(?:deep vein |venous )?thrombosis|interstitial lung disease"
    r"|chronic kidney disease|myocardial infarction|atherosclerosis|lymphopenia|neutropenia|thrombocytopenia"
    r"|an[ae]mia|nephropathy|retinopathy|neuropathy|fibromyalgia|osteoarthritis|gout|epilepsy|dementia|migraine"
    r"|infertility|preeclampsia|COVID-19|sarcoidosis)\b",
    re.IGNORECASE,
)
KINDS = {"antibody": ANTIBODY, "drug": DRUG, "molecule": MOLECULE, "cell": CELL, "disease": DISEASE}
WHOLE = re.compile(  # what completes the name of a disease
    r"[\w'’]*(?:[ -](?:diseases?(?! (?:activity|severity|course|progression|onset|duration|control|modif))|syndrome"
    r"|arthritis|nephritis|nephropathy|thrombocytopenia|erythematosus|vulgaris|foliaceus|mellitus|areata|gravis"
    r"|(?:keratoconjunctiv|encephal|cholang|hepat|pancreat|thyroid|uve|vascul|col|gastr|my|polymy|dermatomy"
    r"|spondyl)itis|an[ae]mia|encephalomyelitis|glomerulonephritis|polyangiitis|myopath(?:y|ies)|optica"
    r"|spectrum disorders?|disorders?))*"
)
QUALIFIED = re.compile(
    r"\b(?:systemic|primary|secondary|plaque|cutaneous|neuropsychiatric|experimental|generali[sz]ed) $", re.IGNORECASE
)
NO_DISEASE = re.compile(  # too general to ask for, or no noun
    r"(?:auto-?(?:immunity|immune (?:diseases?|disorders?)|antibod\w+|antigens?|reactive)|\w*(?:ic|oid|une|free|ive"
    r"|al|ary|related|mediated|defined|phobic|optica|Crohn['’]s|Hashimoto|Sj[oö]gren|Graves['’]?))$",
    re.IGNORECASE,
)
SORT = (
    r"(?:diseases?|disorders?|conditions?|syndromes?|vasculit\w+|arthrit\w+|inflammation|infection|complication|form"
    r"|manifestation|neoplasm|type|subtype|subset|group|proteins?|cytokines?|chemokines?|receptors?|inhibitors?"
    r"|enzymes?|(?:auto)?antibod(?:y|ies)|drugs?|agents?|agonists?|antagonists?|molecules?|hormones?|regulators?"
    r"|mediators?|genes?|transcription factors?|kinases?|cells?|component|cause"
    r"|technique|method|tool|test|index|score|scale|herb|compound|flavonoid|polyphenol|glycoprotein|glycoside"
    r"|peptide|metabolite|family|class|medication|lymphocytes)"
)
DEFINES = re.compile(
    r"(?:The |An? )?(?P<name>(?:[\w'’/⁺⁻-]+ ){0,5}[\w'’/⁺⁻-]+)(?: \([\w/⁺⁻-]+\))? is (?:an?|the|one of the)"
    rf" (?:[\w'’/(),⁺⁻-]+ ){{0,11}}?{SORT}\b"
)
NO_NAME = re.compile(
    r"\b(?:this|these|that|those|it|there|which|stud(?:y|ies)|aims?|objective|purpose|goal|findings?|results?|data"
    r"|patients?|authors|what|here|we|our|one|who|knowledge|review|report|case|approach|analysis|evidence|focus"
    r"|diagnosis|role|use|risk|rates?|number|outcomes?|endpoints?|downside|advantage|drug|although|while|if|because"
    r"|most|many|some|all|both|other|another|and|or|of|in|for|with|to|but|is|are|was)\b",
    re.IGNORECASE,
)


class Entity(NamedTuple):
    """A name at [start, end) of a text."""

    kind: str
    start: int
    end: int


def find_entities(text: str, topic: Topic, mesh: re.Pattern | None = None) -> list[Entity]:
    """The names in `text` in their order, none inside another: of two the longer.

    Kinds: heading (what `mesh` finds, see `headings`), antibody, drug, molecule, cell, disease.
    """
    found = [Entity(kind, *match.span()) for kind, pattern in KINDS.items() for match in pattern.finditer(text)]
    own = whole_words((*topic.terms, *(term for terms in topic.diseases.values() for term in terms)))
    found += [Entity("disease", *whole_name(text, *match.span())) for match in own.finditer(text)]
    found += [Entity("heading", *match.span()) for match in mesh.finditer(text)] if mesh else []
    kept: list[Entity] = []
    for entity in sorted(found, key=lambda e: (e.start - e.end, e.start, e.kind != "heading")):
        name = text[entity.start : entity.end]
        wrong = {"molecule": NO_MOLECULE.match, "disease": NO_DISEASE.search}.get(entity.kind)
        if not (wrong and wrong(name)) and all(entity.end <= e.start or entity.start >= e.end for e in kept):
            kept.append(entity)
    return sorted(kept, key=lambda entity: entity.start)


def whole_name(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) of the disease that a term of the topic is part of: of "systemic lupus erythematosus", say."""
    before = QUALIFIED.search(text[:start])
    return before.start() if before else start, WHOLE.match(text, end).end()


def mesh_pattern(paper: Paper) -> re.Pattern | None:
    """What finds the paper's MeSH headings as people write them: "Arthritis, Rheumatoid" as rheumatoid arthritis."""
    topical = [heading for heading in paper.mesh if not CHECK_TAGS.match(heading) and heading.count(",") < 2]
    terms = [" ".join(reversed(h.split(", "))) for h in topical if " " in h or MEDICAL.match(h)]
    return whole_words(tuple(terms)) if terms else None


@lru_cache(256)
def whole_words(terms: tuple[str, ...]) -> re.Pattern:
    """A pattern that finds any of the terms as whole words, the longest of several; `*` stands for any ending.

    Terms in capitals (SLE) must be in capitals in the text too.
    """
    bodies: dict[bool, list[str]] = {True: [], False: []}
    for term in sorted(set(terms), key=lambda term: (-len(term), term)):
        body = re.escape(term.rstrip("*")).replace(r"\ ", r"[\s-]+").replace("'", "['’]")
        bodies[term.isupper()].append(body + (r"\w*" if term.endswith("*") else ""))
    exact, loose = ("|".join(bodies[capitals]) or "(?!)" for capitals in (True, False))
    return re.compile(rf"(?<!\w)(?:(?i:{loose})|{exact})(?!\w)")


@lru_cache(1024)
def defined_term(sentence: str) -> str:
    """What a sentence such as "Vitiligo is a depigmenting skin disorder …" defines; "" if it defines nothing."""
    match = DEFINES.match(sentence)
    name = match["name"] if match else ""
    return name if len(name) > 2 and not NO_NAME.search(name) and not name.endswith(("disorders", "diseases")) else ""
