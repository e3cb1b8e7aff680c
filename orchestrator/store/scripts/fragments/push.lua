-- Push a message of this run that Celery has made, publishable from now on. Uses instant.
local function push(queue, message)
  redis.call('LPUSH', queue, (string.gsub(message, '@since@', instant)))
end
