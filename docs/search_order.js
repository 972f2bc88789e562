// A page that explains a word comes before the glossary that defines it, and both before the reference and its source.
var Scorer = {
  score: ([docname, , , , score]) => {
    if (docname.startsWith("auto_gallery/plot_")) return score + 100;
    if (docname.startsWith("generated/")) return score + 10;
    return docname === "glossary" ? score + 20 : score;
  },
  objNameMatch: 110, // the full name of a function is looked for on purpose
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
