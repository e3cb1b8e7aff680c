-- Take the oldest message out of a queue, if it is for a certain task and nothing in its head is Celery's to care for.
-- KEYS    1 queue
-- ARGV    1 task
-- Returns the message, or nothing.
-- TTL     none. An identical second call takes the message behind it: one whose answer was lost is lost like any other.
local oldest = redis.call('LINDEX', KEYS[1], -1)
local is_read, message = pcall(cjson.decode, oldest or '')
local headers = is_read and type(message) == 'table' and message.headers
if type(headers) ~= 'table' or headers.task ~= ARGV[1] or message['content-type'] ~= 'application/json'
  or headers.eta ~= cjson.null or headers.expires ~= cjson.null or type(headers.timelimit) ~= 'table'
  or headers.timelimit[1] ~= cjson.null or headers.timelimit[2] ~= cjson.null then
  return
end
return redis.call('RPOP', KEYS[1])
