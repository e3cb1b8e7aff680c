-- Turn the record of a claimed node into that of one whose output is stored. Uses rec, token, NOW and seq_now.
rec.state, rec.stored, rec.ended, rec.seq, rec.token, rec.holder, rec.deadline =
  'succeeded', token, NOW, seq_now, nil, nil, nil
