-- The record of a node (rec), if its first attempt runs with this token. Uses text, which is stored of the node, and token.
local rec = text and cjson.decode(text)
if rec and (rec.state ~= 'running' or rec.token ~= token or rec.attempt ~= 1 or rec.throttled) then
  rec = nil
end
