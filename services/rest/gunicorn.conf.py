"""gunicorn - how the workers of the rest service are run; what they do is `kme.appliance.rest`."""

from kme.appliance.rest.settings import RestSettings
from kme.appliance.start import load, one_line_errors
from kme.log import set_up_logging

with one_line_errors("rest"):
    _settings = load(RestSettings)
set_up_logging(_settings.log.level, _settings.log.format)

bind = [f"{_settings.rest.host}:{_settings.rest.port}"]
workers = _settings.rest.workers
worker_class = "kme.appliance.rest.worker.RestWorker"
logger_class = "kme.appliance.rest.worker.GunicornLog"

# Loaded before the workers are forked: they share its memory, and start at once.
preload_app = True

# A worker whose loop stands still for so long is replaced.
timeout = 8

# Less than the 10 s that Docker waits: answers under way may take 5 s of it.
graceful_timeout = 8

# On tmpfs: a slow disk shall not make a worker look dead.
worker_tmp_dir = str(_settings.rest.run)

# Nothing may steer gunicorn but signals.
control_socket_disable = True
