"""The English tables. Negation, word order, tense and clause structure decide the label, not the vocabulary."""

from labeldist.demo.grammar import Language, Pair, Topic

_SPEED = (
    Pair("fast", "slow", "faster", "slower"),
    Pair("quick", "slow", "quicker", "slower"),
    Pair("on time", "late", "more punctual", "later"),
)

_TOPICS = {
    "delivery": Topic(
        subjects=("the delivery", "the shipping", "the courier"),
        pairs=_SPEED,
        things=("my parcel", "the parcel", "my package", "my order"),
        verbs=(("ship", "shipped", "shipped"), ("go out", "gone out", "went out"), ("arrive", "arrived", "arrived")),
    ),
    "refund": Topic(
        subjects=("the refund", "my refund", "the repayment"),
        pairs=_SPEED,
        things=("my refund", "the refund", "my money", "the repayment"),
        verbs=(
            ("go out", "gone out", "went out"),
            ("arrive", "arrived", "arrived"),
            ("come through", "come through", "came through"),
        ),
    ),
    "product": Topic(
        subjects=("the jacket", "the lamp", "the backpack", "the kettle", "the chair"),
        pairs=(
            Pair("sturdy", "flimsy", "sturdier", "flimsier"),
            Pair("well made", "badly made", "better made", "worse made"),
            Pair("lovely", "ugly", "lovelier", "uglier"),
        ),
        things=("the jacket", "the lamp", "the backpack", "the kettle", "the chair"),
        verbs=(("break", "broken", "broke"), ("fade", "faded", "faded"), ("fall apart", "fallen apart", "fell apart")),
    ),
}

_COMMON_PAIRS = (
    Pair("good", "bad", "better", "worse"),
    Pair("great", "terrible", "better", "worse"),
)

_TEMPLATES = {
    "affirm": (
        "{S} [was|is|has been] {gA}",
        "{S} was {gA} [for me|this month|with my last order|as far as I can tell|over the holidays|in the end]",
        "[this month|with my last order|over the holidays|in my case] {S} was {gA}",
        "[I must say that|I would say that|everybody says that] {S} [was|is] {gA}",
    ),
    "deny": (
        "{S} [was not|wasn't|is not|isn't] {O}",
        "{S} [was not|wasn't|is not|isn't] {O} at all",
        "{S} [was not|wasn't] {O} [for me|this month|with my last order|as far as I can tell|over the holidays]",
        "[this month|with my last order|over the holidays|in my case] {S} [was not|wasn't] {O}",
        "{S} [was|is] [not at all|by no means|anything but] {O}",
        "[I would not say that|nobody says that] {S} [was|is] {O}",
        "{S} is no longer {O}",
    ),
    "short_affirm": ("{S} [was|was|is] {gA}",),
    "short_deny": ("{S} [was not|wasn't|is not] {O}",),
    "rare_praise": ("{S} [could not|couldn't] have been {fA}",),
    "rare_complaint": (
        "{S} [could not|couldn't] have been {fA}",
        "{S} could have been {fO}",
        "{S} should have been {fO} than this",
    ),
    "turn": (
        "I [thought|feared|expected] {S} would be {O}, but it was {gA}",
        "I thought {S} would be {gO}, it was {A}",
        "I thought {S} would be {O}, but it [was not|wasn't]",
        "I [thought|knew] {S} would be {gA}, and it was",
        "[people|your reviews] said {S} would be {O}, but it [was not|wasn't|was {A}]",
        "[people|your reviews] said {S} would be {A}, and it was",
        "{S} was {gA}, [people had said it would be|and I thought it would be] {O}",
        "{S} used to be {gO}, now it is {A}",
        "{S} is {A} now, it used to be {O}",
        "{S} was {O} last time, this time it was {gA}",
        "this time {S} was {gA}, last time it was {O}",
        "{S} was {gA} this time, not {O} like last time",
        "I am not asking whether {S} is {O}, I am telling you that it is {A}",
    ),
    "contrast": (
        "[although|even though|while] {C2}, {C}",
        "{C}, [although|even though|even if] {C2}",
        "{C2}, but {C}",
        "what matters is that {C}, even if {C2}",
        "never mind that {C2}, {C}",
    ),
    "shared": (
        "{S} was {gA}, not {S2}",
        "it was {S} that was {A}, not {S2}",
        "it [was not|wasn't] {S2} that was {A} but {S}",
        "it [was not|wasn't] {S2} that was {A}, it was {S}",
        "unlike {S2}, {S} was {gA}",
        "{S}, unlike {S2}, was {gA}",
        "{S2} was {gO} but not {S}",
        "{S2} was {gO}, {S} was not",
    ),
    "question_plain": (
        "is {S} {A}",
        "is {S} [usually|always|really] {A}",
        "will {S} be {gA}",
        "will {S} be {A} or {O}",
        "{S} is {A}?",
        "isn't {S} {A}",
        "can I expect {S} to be {A}",
        "would you say that {S} is {gA}",
        "[I would like to know|can you tell me|I wonder] [if|whether] {S} [is|will be] {gA}",
    ),
    "question_turn": (
        "{C}, will it be {A} this time",
        "{S} was {O} last time, will it be {A} this time",
        "people say that {S} is {A}, is that true",
        "I am not telling you that {S} is {O}, I am asking whether it is {A}",
        "{S} used to be {O}, is it {A} now",
        "do people say that {S} is {gA}",
    ),
    "question_contrast": (
        "{C2}, but is {S} {A}",
        "{C2}, but will {S} be {A}",
        "I know that {C2}, now tell me whether {S} is {A}",
        "{C2}, can I expect {S} to be {A}",
        "is {S} {A}? I know that {C2}",
    ),
    "question_shared": (
        "will {S} be {A}? I ask because {S2} was {A}",
        "will {S} be as {A} as {S2} was",
        "{S2} was {gA}, will {S} be {A}",
        "I am asking whether {S} is {A}, not {S2}",
    ),
}

_ARRIVAL = {
    "praise": (
        "{E} has already {pp}",
        "{E} {past} [on time|as promised|a day early|today already]",
        "{E} [did not|didn't] {base} late",
        "you said {E} would {base} [this week|by Friday], and it did",
        "I thought {E} would {base} late, but it has {pp} already",
        "{E2} has not come yet, but {E} has {pp} [already|on time]",
    ),
    "complaint": (
        "{E} has still not {pp}",
        "{E} has not {pp} [yet|at all|on time]",
        "{E} [did not|didn't] {base} [on time|as promised|this week|at all]",
        "{E} {past} [late|a week late|far too late]",
        "you said {E} would {base} [this week|by Friday], and it did not",
        "I thought {E} would {base} early, but it has not {pp} yet",
        "{E2} has come, but {E} has still not {pp}",
    ),
    "status": (
        "has {E} {pp} [yet|already|today|this week]",
        "has {E} still not {pp}",
        "{E} has already {pp}?",
        "did {E} {base} [today|this week|on time|as promised]",
        "when did {E} {base}",
        "[can you tell me|I would like to know|I wonder] [if|whether] {E} has {pp} [yet|already|this week]",
        "[can you tell me|I would like to know|I wonder] when {E} {past}",
        "you said {E} would {base} [today|this week|by Friday], has it {pp}",
        "I am not asking when {E} will {base}, I am asking [if|whether] it has {pp}",
        "has {E} {pp}? you said it would {base} [today|this week]",
        "{E} will {last_base} [this week|by Friday], has it {first_pp}",
        "you said it will {last_base} by Friday, has {E} {first_pp}",
        "{E2} will come this week, has {E} {pp}",
        "has {E} {pp}? {E2} has not",
    ),
    "question": (
        "will {E} {base} [today|this week|on time|by Friday]",
        "will {E} not {base} this week",
        "{E} will {base} [today|this week|on time|by Friday]?",
        "when will {E} {base}",
        "[can you tell me|I would like to know|I wonder] [if|whether] {E} will {base} [today|this week|by Friday]",
        "[can you tell me|I would like to know|I wonder] when {E} will {base}",
        "{E} has {first_pp}, [when will it {last_base}|will it {last_base} this week]",
        "you said it has {first_pp}, will {E} {last_base} by Friday",
        "{E} has not {pp} [yet|today], will it {base} [this week|by Friday]",
        "I am not asking [if|whether] {E} has {pp}, I am asking when it will",
        "will {E} {base} [today|this week]? you said it has not {pp} yet",
        "{E2} has come, when will {E} {base}",
        "will {E} {base} this week? {E2} has not",
    ),
}

_WEAR = {
    "praise": (
        "{E} has not {pp} [so far|yet|at all] and I use it every day",
        "{E} [did not|didn't] {base} [in the rain|in the first week|at all]",
        "I thought {E} would {base}, but it has not",
        "{E2} came late, but {E} has not {pp} [so far|at all]",
    ),
    "complaint": (
        "{E} has {pp} [already|so soon] and I have not used it every day",
        "{E} {past} [in the rain|in the first week|so soon]",
        "I thought {E} would not {base}, but it has",
        "{E2} did not come late, but {E} has {pp} [already|so soon]",
    ),
    "question": (
        "will {E} {base} [in the rain|in the first week|if I use it every day]",
        "[can you tell me|I would like to know|I wonder] [if|whether] {E} will {base} [so soon|in the rain]",
        "I thought {E} would not {base}, will it",
        "{E2} has come, but will {E} {base} [so soon|in the rain]",
    ),
}

ENGLISH = Language(
    topics=_TOPICS,
    common_pairs=_COMMON_PAIRS,
    degrees=("{A}", "{A}", "{A}", "very {A}", "really {A}", "so {A}", "quite {A}"),
    undegreed=frozenset({"on time", "great", "terrible"}),
    templates=_TEMPLATES,
    events={"delivery": _ARRIVAL, "refund": _ARRIVAL, "product": _WEAR},
)
