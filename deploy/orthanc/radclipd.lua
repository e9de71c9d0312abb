-- Forwards chest radiographs from Orthanc to radclipd, and sees to it that they arrive. Orthanc 1.10 and newer.
--
-- * A stable study: its CR and DX images go to the modality "radclipd", each once, and after them the readers' reports (SR) and key
--   objects (KO) of the same study, which may hold labels. Anything radclipd made never goes.
-- * A failed store job is sent again, later and later, until it succeeds. Orthanc itself does not send again.
-- * What has been forwarded is remembered in the study's metadata, so a report that comes back sends nothing.
--
-- Callbacks of the same names in scripts loaded before this one still run.

local MODALITY = 'radclipd'         -- symbolic name in "DicomModalities"
local RADIOGRAPHY = { CR = true, DX = true }
local DOCUMENTS = { SR = true, KO = true }
local METADATA = '4711'             -- of a study: Orthanc identifiers of the images that radclipd has
local settings = GetOrthancConfiguration().Radclipd or {}
local FIRST_WAIT = settings.FirstWait or 10       -- seconds before sending again; doubles up to
local LONGEST_WAIT = settings.LongestWait or 600
local WITH_DOCUMENTS = settings.Documents ~= false
local MOST_REFUSALS = settings.MostRefusals or 20 -- of one study by a radclipd that is there; then it is left for a person
local CHANGES_AT_START = 4000       -- how far back a starting Orthanc looks for studies it had not finished
local JOB_TIME = 3600               -- seconds after which a job that was never heard of again counts as lost

local pending = {}                  -- study -> { refusals, busy_until }
local wait = FIRST_WAIT
local next_try = 0
local timer = nil                   -- the study that a sleeping shell will send

local function get(path)
  local answer = RestApiGet(path)
  return answer and ParseJson(answer)
end

local function log(message)
  print('radclipd: ' .. message)
end

-- What is to be sent -------------------------------------------------------------------------------------------------------

local function remembered(study)
  local known, ids = false, {}
  for _, name in ipairs(get('/studies/' .. study .. '/metadata') or {}) do
    known = known or name == METADATA or name == 'RadclipdForwarded'
  end
  if known then
    for id in string.gmatch(RestApiGet('/studies/' .. study .. '/metadata/' .. METADATA), '[%x-]+') do ids[id] = true end
  end
  return ids, known
end

local function remember(study, images)
  local ids = remembered(study)
  for _, id in ipairs(images) do ids[id] = true end
  local list = {}
  for id in pairs(ids) do table.insert(list, id) end
  RestApiPut('/studies/' .. study .. '/metadata/' .. METADATA, table.concat(list, ' ') .. ' ')
end

local function made_by_radclipd(image)
  local tags = get('/instances/' .. image .. '/tags?simplify') or {}
  return tags.ManufacturerModelName == 'radclipd'
end

-- Images first: a document that is refused ends the job, and must not keep a film back.
local function unsent(study)
  local chosen, ids, radiographs = {}, remembered(study), 0
  local all_series = get('/studies/' .. study .. '/series') or {}
  local function choose(modalities)
    for _, series in ipairs(all_series) do
      if modalities[series.MainDicomTags.Modality] then
        for _, instance in ipairs(series.Instances) do
          if not ids[instance] and not made_by_radclipd(instance) then table.insert(chosen, instance) end
        end
      end
    end
  end
  for _, series in ipairs(all_series) do
    if RADIOGRAPHY[series.MainDicomTags.Modality] then radiographs = radiographs + 1 end
  end
  choose(RADIOGRAPHY)
  if WITH_DOCUMENTS and radiographs > 0 then choose(DOCUMENTS) end
  return chosen
end

-- Sending ------------------------------------------------------------------------------------------------------------------

local function order(images)
  return DumpJson({ Resources = images, Asynchronous = true }, true)
end

local function forward(study)
  local state = pending[study] or { refusals = 0, busy_until = 0 }
  if state.busy_until > os.time() then return end
  local images = unsent(study)
  if #images == 0 then
    pending[study] = nil
    return
  end
  state.busy_until = os.time() + JOB_TIME
  pending[study] = state
  local _, tried = remembered(study)
  if not tried then remember(study, {}) end -- a restarted Orthanc finds by this what it had begun
  RestApiPost('/modalities/' .. MODALITY .. '/store', order(images))
end

local function least_refused()
  local found = nil
  for study, state in pairs(pending) do
    if state.busy_until <= os.time() and (not found or state.refusals < pending[found].refusals) then found = study end
  end
  return found
end

-- Sending again ------------------------------------------------------------------------------------------------------------
-- Orthanc 1.11.1 and newer beat (LuaHeartBeatPeriod). Older ones have no clock for scripts: a sleeping shell asks Orthanc, over
-- its REST API, to send one waiting study; the end of that job wakes this script again. One shell at a time, and only while
-- something waits.

local function beats(config)
  local major, minor, patch = string.match(get('/system').Version, '(%d+)%.(%d+)%.(%d+)')
  local version = major and major * 1000000 + minor * 1000 + patch or math.huge -- "mainline" has no number
  return version >= 1011001 and (config.LuaHeartBeatPeriod or 0) > 0
end

local function quoted(text)
  return '"' .. string.gsub(text, '[\\"]', '\\%0') .. '"'
end

local function curl_order(config, images)
  local scheme = config.SslEnabled and 'https' or 'http'
  local lines = {
    'url = ' .. quoted(scheme .. '://127.0.0.1:' .. math.floor(config.HttpPort or 8042) .. '/modalities/' .. MODALITY .. '/store'),
    'data = ' .. quoted(order(images)),
  }
  for name, password in pairs(config.RegisteredUsers or {}) do
    table.insert(lines, 'user = ' .. quoted(name .. ':' .. password))
    break
  end
  if config.SslEnabled then table.insert(lines, 'insecure') end
  return table.concat(lines, '\n') .. '\n'
end

local function start_timer(seconds)
  local config = GetOrthancConfiguration()
  local asleep = timer and pending[timer] and pending[timer].busy_until > os.time()
  if asleep or beats(config) then return end
  local study = least_refused()
  if not study then return end
  -- The order goes in by standard input, so no password shows in a process list; Orthanc's sockets are closed in the shell.
  local shell = io.popen('exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; order=$(cat); (sleep ' .. math.floor(seconds)
    .. '; printf "%s\\n" "$order" | curl --silent --max-time 60 --config -) >/dev/null 2>&1 &', 'w')
  if not shell then
    log('no shell to wait in: what failed is sent again with the next stable study')
    return
  end
  shell:write(curl_order(config, unsent(study)))
  shell:close()
  timer = study
  pending[study].busy_until = os.time() + seconds + 90 -- heard nothing by then: the shell, or curl, is not there
end

local function send_again_later()
  if os.time() < next_try then return end -- many jobs fail at once; one wait is enough
  next_try = os.time() + wait
  start_timer(wait)
  wait = math.min(2 * wait, LONGEST_WAIT)
end

local function send_all_waiting()
  local studies = {}
  for study in pairs(pending) do table.insert(studies, study) end
  for _, study in ipairs(studies) do forward(study) end
end

-- What Orthanc tells us ----------------------------------------------------------------------------------------------------

-- Returns the job if it was ours, its study and its images.
local function our_job(id)
  local job = get('/jobs/' .. id)
  if not job or job.Type ~= 'DicomModalityStore' then return end
  local modality = get('/modalities/' .. MODALITY .. '/configuration')
  if not modality or job.Content.RemoteAet ~= modality.AET then return end
  local images = job.Content.ParentResources or {}
  local parent = images[1] and get('/instances/' .. images[1] .. '/study') -- nothing for a study sent as a whole, by hand
  if parent then return job, parent.ID, images end
end

local function succeeded(id)
  local job, study, images = our_job(id)
  if not job then return end
  remember(study, images)
  pending[study] = nil
  wait, next_try = FIRST_WAIT, 0
  forward(study) -- what came while the job ran
  send_all_waiting()
end

-- A radclipd that is away, starting, or out of disk says nothing about the study.
local function about_radclipd(details)
  return string.find(details, 'connecting to AET', 1, true) or string.find(details, 'status 0xA7', 1, true)
end

local function failed(id)
  local job, study = our_job(id)
  if not job then return end
  local state = pending[study] or { refusals = 0 }
  local details = job.ErrorDetails or ''
  state.busy_until = 0
  if not about_radclipd(details) then state.refusals = state.refusals + 1 end
  if state.refusals >= MOST_REFUSALS then
    log('study ' .. study .. ' was refused ' .. MOST_REFUSALS .. ' times and is left alone: ' .. details)
    state = nil
  end
  pending[study] = state
  if next(pending) then send_again_later() end
end

local function beat()
  local study = os.time() >= next_try and least_refused()
  if study then forward(study) end
end

-- What was being sent, or was not yet stable, when Orthanc last stopped.
local function resume()
  local last = get('/changes?last').Last or 0
  local changes = get('/changes?since=' .. math.max(0, math.floor(last) - CHANGES_AT_START) .. '&limit=' .. CHANGES_AT_START)
  local stable = {}
  for _, change in ipairs(changes.Changes) do
    if change.ChangeType == 'NewStudy' then stable[change.ID] = false end
    if change.ChangeType == 'StableStudy' then stable[change.ID] = true end
    if change.ChangeType == 'Deleted' then stable[change.ID] = nil end
  end
  for study, settled in pairs(stable) do
    local _, tried = remembered(study)
    if tried or not settled then forward(study) end
  end
end

local function also(name, react)
  local earlier = _G[name]
  _G[name] = function(...)
    if earlier then earlier(...) end
    return react(...)
  end
end

also('OnStableStudy', forward)
also('OnJobSuccess', succeeded)
also('OnJobFailure', failed)
also('OnHeartBeat', beat)
also('Initialize', resume)
