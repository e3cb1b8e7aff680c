-- Turn the record of a claimed node into that of one whose output is stored. Uses NOW.
local function succeed(rec, token, seq)
  rec.state, rec.stored, rec.ended, rec.seq, rec.token, rec.holder, rec.deadline = 'succeeded', token, NOW, seq, nil, nil, nil
end
