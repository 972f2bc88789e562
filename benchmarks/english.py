"""What chat models are asked and read in a benchmark: written for it, so that no model was trained on it."""

TEXT = """\
The harbour town had lived from herring for three hundred years before the fish moved north. Old people still tell how
the boats came in so heavy that water stood over the planks, and how everybody, teachers and priests included, went
down to the quay to gut and salt. When the shoals failed to come back in the spring of 1968, the town council met for
eleven nights. Some wanted to buy larger ships and follow the fish; others said that the sea would recover if it was
left alone for a while. In the end they did neither. A young engineer persuaded them to build a small power station in
the gorge above the town, and the factory that had frozen herring began to freeze vegetables instead.

A volcano erupts when molten rock from deep inside the Earth, called magma, rises to the surface. Magma is lighter
than the solid rock around it, so it moves upward through cracks. As it rises, the pressure on it falls, and gases
that were dissolved in it form bubbles, much as they do when a bottle of soda is opened. If the magma is thin and
runny, the gases escape easily and lava flows gently down the slopes. If it is thick and sticky, the gases are trapped
until the pressure is great enough to blast the rock apart. Scientists watch volcanoes with instruments that measure
small earthquakes, changes in the shape of the ground, and the gases that come out of vents.

To bake a simple loaf of bread you need flour, water, salt and yeast. Mix them in a large bowl until no dry flour is
left, cover the bowl, and let the dough rest for an hour. Then fold it a few times and let it rise until it has
doubled in size. Shape it into a ball, place it on a sheet of baking paper, and cut the top with a sharp knife. Bake
it in a hot oven for about forty minutes. The loaf is ready when it sounds hollow if you tap it from below."""

QUESTIONS = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write a short poem about rain.",
    "How many days are in a leap year?",
    "Explain what a computer program is.",
    "Give me three tips for a good night's sleep.",
    "Who wrote Romeo and Juliet?",
    "What is photosynthesis?",
    "Translate 'good morning' into Spanish.",
    "List the planets of the solar system.",
    "What should I cook with rice and eggs?",
    "Write a Python function that adds two numbers.",
    "What is the difference between a cat and a dog?",
    "Tell me a joke.",
    "How do airplanes fly?",
    "What is 12 times 12?",
    "Summarize the story of Cinderella in two sentences.",
    "Why do leaves change colour in autumn?",
    "Name five animals that live in the ocean.",
    "Write an email to my boss asking for a day off.",
]
