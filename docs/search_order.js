// A function or class that is looked for by its name comes first, then the pages that use a word, then the glossary that
// defines it, then the rest.
var Scorer = {
  score: ([docname, , , description, score]) => {
    if (docname.startsWith("auto_gallery/plot_")) return score + 100;
    if (docname.startsWith("generated/")) return /^Python (function|class)/.test(description) ? score + 100 : score;
    return docname === "glossary" ? Math.min(score, 60) : score;
  },
  objNameMatch: 11,
  objPartialMatch: -5,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
