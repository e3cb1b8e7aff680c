-- Leave unless the node runs with this token: a claim that has ended, or another one's, is fenced off. Uses rec and token.
if not rec or rec.state ~= 'running' or rec.token ~= token then
  return {'fenced'}
end
