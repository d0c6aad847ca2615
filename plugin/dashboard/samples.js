/* Something to try at once: short sentences of eight kinds, a label before each. */
"use strict";

const Samples = (() => {
  const KINDS = {
    weather: ["It will rain until the evening.", "The storm knocked down two old trees.", "Snow fell on the hills overnight.",
      "A warm wind blows from the south.", "Fog hides the other side of the river.", "The forecast promises a sunny weekend.",
      "It was the hottest day of the year.", "Lightning struck close to the church.", "The drizzle turned into heavy rain.",
      "Frost covered the windows this morning.", "Clouds are gathering over the bay.", "The drought has lasted for three months."],
    cooking: ["Chop the onions and fry them gently.", "The soup needs a little more salt.", "Let the dough rise for an hour.",
      "She baked a cake with lemon and almonds.", "Boil the potatoes until they are soft.", "Grate some cheese over the pasta.",
      "This sauce tastes of garlic and basil.", "He burned the toast again.", "Marinate the chicken overnight.",
      "Whisk the eggs with sugar and milk.", "The bread comes fresh out of the oven.", "Stir the rice so that it does not stick."],
    football: ["The striker scored twice in the first half.", "Our goalkeeper saved a penalty.", "They lost the final in extra time.",
      "The referee showed a red card.", "The team trains every Tuesday evening.", "A corner kick led to the winning goal.",
      "The coach changed three players at once.", "Fans filled the stadium long before the match.", "He hit the post from twenty metres.",
      "The defender cleared the ball off the line.", "It ended in a draw without goals.", "The captain was injured during the warm-up."],
    computers: ["My laptop does not start any more.", "The update fixed the bug in the driver.", "Please reset your password and log in again.",
      "The server ran out of memory at night.", "She wrote a script that renames all files.", "The database needs a new index.",
      "Our website was down for ten minutes.", "Press the key twice to open the menu.", "The compiler warns about an unused variable.",
      "Back up your data before you reinstall.", "The network is slow because of a bad cable.", "This program crashes when the file is empty."],
    money: ["The bank raised its interest rate.", "Shares of the company fell by six percent.", "He invests his savings in bonds.",
      "The price of oil reached a new high.", "We cannot afford a new house this year.", "Inflation eats up the pay rise.",
      "The budget has a hole of two million.", "She pays her rent on the first of the month.", "The start-up found an investor.",
      "Taxes on petrol will go up in spring.", "The loan has to be paid back in ten years.", "The market reacted calmly to the news."],
    travel: ["Our train to Vienna leaves at nine.", "The flight was delayed by two hours.", "We booked a hotel near the old harbour.",
      "You need a visa to enter the country.", "They crossed the desert in an old bus.", "The ferry takes cars and bicycles.",
      "Do not forget your passport.", "The museum is closed on Mondays.", "We hiked along the coast for a week.",
      "The airport lost my suitcase.", "A guide showed us the ruins.", "The view from the summit was wonderful."],
    health: ["The doctor prescribed some antibiotics.", "My knee hurts when I climb stairs.", "She has been coughing for two weeks.",
      "Drink enough water when you have a fever.", "The nurse took his blood pressure.", "He is allergic to nuts.",
      "The operation went well.", "Vaccination protects against the flu.", "I have an appointment with the dentist.",
      "Too little sleep weakens the body.", "The wound must be kept clean.", "A balanced diet lowers the risk of disease."],
    music: ["The orchestra tuned its instruments.", "She plays the violin in a quartet.", "The band recorded its second album.",
      "He sings in the church choir.", "The drummer kept a steady beat.", "They danced to an old jazz record.",
      "The concert was sold out within minutes.", "This song is written in a minor key.", "A pianist played softly in the hotel bar.",
      "The chorus is easy to remember.", "He practises his guitar for hours.", "The opera has four acts."],
  };

  /** As it would be pasted: `label<TAB>text` in each line. */
  const TEXT = Object.entries(KINDS).flatMap(([label, texts]) => texts.map(text => `${label}\t${text}`)).join("\n");

  return {TEXT};
})();
