// The texts of a page that stand out from what is behind them by less than 4.5 : 1, each with its ratio.
const read = colour => {
  const parts = colour.match(/[\d.]+/g).map(Number);
  const [red, green, blue] = colour.startsWith('color(') ? parts.map(part => part * 255) : parts;
  return [red, green, blue, parts.length > 3 ? parts[3] : 1];
};
const above = (top, below) => [0, 1, 2].map(at => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
const light = colour => [.2126, .7152, .0722].reduce((sum, weight, at) => {
  const part = colour[at] / 255;
  return sum + weight * (part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
}, 0);
const ratio = (one, other) => (Math.max(light(one), light(other)) + .05) / (Math.min(light(one), light(other)) + .05);
const up = element => element ? [element, ...up(element.parentElement)] : [];
const behind = element => up(element).reverse().reduce(
  (below, each) => above(read(getComputedStyle(each).backgroundColor), below), [255, 255, 255, 1]);
const found = [];
const look = (text, style, colour, element) => {
  const shown = read(colour);
  shown[3] *= up(element).reduce((all, each) => all * getComputedStyle(each).opacity, style.opacity / getComputedStyle(element).opacity);
  const at = ratio(above(shown, behind(element)), behind(element));
  if (at < 4.5) found.push(`${text.trim().slice(0, 40)} ${at.toFixed(2)}`);
};
const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  const style = getComputedStyle(element);
  const isShown = element.checkVisibility() && element.getBoundingClientRect().width && !element.closest('.off, title, option');
  if (isShown && texts.currentNode.nodeValue.trim())
    look(texts.currentNode.nodeValue, style, element instanceof SVGElement ? style.fill : style.color, element);
}
for (const field of document.querySelectorAll('.fl [placeholder]')) {
  const style = getComputedStyle(field, '::placeholder');
  look(field.placeholder, {opacity: style.opacity * getComputedStyle(field).opacity}, style.color, field);
}
return found;
