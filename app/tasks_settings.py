"""The settings of integration tasks; `app.settings` reads them with all others."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, HttpUrl, SecretStr, model_validator

from app.setting_fields import Duration, DurationOrZero, Part, Size, Topic

_Slots = Annotated[int, Field(ge=1, le=64)]
_THIS_MACHINE = {"127.0.0.1", "[::1]", "localhost"}


class TasksSettings(Part):
    """Integration tasks: what is asked of Dadata and YandexGPT, how often, and what it may cost."""

    dadata_api_key: SecretStr | None = None
    """API key of Dadata; with it and the secret key the real service is called, without them a fake."""
    dadata_secret_key: SecretStr | None = None
    """Secret key of Dadata."""
    dadata_url: HttpUrl | None = None
    """Where Dadata's cleaner is; not set: the real one if there are keys, else `FAKES_URL`."""
    dadata_slots: _Slots = 4
    """Most requests to Dadata at a time, over all processes."""
    dadata_rate: float = Field(10, ge=0)
    """Most requests to Dadata a second, over all processes; 0 for no limit."""
    dadata_timeout: Duration = timedelta(seconds=3)
    """How long Dadata may take to connect, and then to answer."""
    dadata_attempts: Size = 5
    """How often Dadata is asked for one task before the task fails."""
    dadata_unknown: Literal["retry", "hold"] = "retry"
    """What follows when nobody knows whether Dadata did, and billed, what it was asked for."""
    yandex_api_key: SecretStr | None = None
    """API key of a service account in Yandex Cloud; with it (or a token) the real YandexGPT is called."""
    yandex_iam_token: SecretStr | None = None
    """IAM token, instead of the key; it lives for twelve hours at most."""
    yandex_folder_id: str = Field("", max_length=100)
    """The service account's folder in Yandex Cloud."""
    yandexgpt_url: HttpUrl | None = None
    """Where YandexGPT is; not set: the real one if there is a key, else `FAKES_URL`."""
    yandexgpt_operations_url: HttpUrl | None = None
    """Where operations of the mode `async` are asked about; not set: as above."""
    yandexgpt_model: str = Field("yandexgpt-lite/latest", min_length=1, max_length=200)
    """Model, as in its URI after the folder."""
    yandexgpt_mode: Literal["sync", "async"] = "sync"
    """`async` costs half, takes longer, and can be asked again after a crash without paying twice."""
    yandexgpt_system_prompt: str = ""
    """Text before each prompt, in the role `system`."""
    yandexgpt_temperature: float = Field(0.3, ge=0, le=1)
    """How free the answer may be."""
    yandexgpt_max_tokens: Size = 2000
    """Longest answer, in tokens."""
    yandexgpt_slots: _Slots = 8
    """Most requests to YandexGPT at a time, over all processes."""
    yandexgpt_rate: float = Field(10, ge=0)
    """Most requests to YandexGPT a second, over all processes; 0 for no limit."""
    yandexgpt_timeout: Duration = timedelta(seconds=60)
    """How long YandexGPT may take to answer."""
    yandexgpt_poll: Duration = timedelta(seconds=2)
    """How long between two questions about an operation."""
    yandexgpt_attempts: Size = 3
    """How often YandexGPT is asked for one task before the task fails."""
    yandexgpt_unknown: Literal["retry", "hold"] = "hold"
    """What follows when nobody knows whether YandexGPT did, and billed, what it was asked for."""
    fakes_url: HttpUrl = HttpUrl("http://127.0.0.1:8090")
    """Where `outbox fakes` answers for providers without keys."""
    providers_proxy: SecretStr | None = None
    """HTTP proxy on the way to the providers."""
    kafka_import_topic: Topic = "integration.tasks"
    """Where tasks come from."""
    tasks_group: str = Field("integration-tasks", min_length=1, max_length=200)
    """Consumer group; the inbox knows repeats per group."""
    kafka_import_dead_letters_topic: Topic = "integration.tasks.dlq"
    """Where input goes that is no task."""
    kafka_result_topic: Topic = "integration.results"
    """Where results go, for tasks from Kafka and from HTTP."""
    kafka_error_topic: Topic = "integration.errors"
    """Where failures go, for tasks from Kafka and from HTTP."""
    task_prompt_max_length: Size = 10_000
    """Longest prompt, in characters."""
    task_wait: Duration = timedelta(seconds=5)
    """How long a request waits for its result unless it says `Prefer: wait=N`."""
    task_wait_max: Duration = timedelta(seconds=30)
    """Longest wait that a request can ask for."""
    task_deadline: Duration = timedelta(days=1)
    """A task that has no answer after this long fails."""
    task_retry_min: Duration = timedelta(seconds=1)
    """First pause before a provider is asked again for the same task; it doubles."""
    task_retry_max: Duration = timedelta(minutes=1)
    """Longest pause before a provider is asked again for the same task."""
    task_lease_margin: Duration = timedelta(seconds=30)
    """A call that has not been settled this long after its deadline is taken for lost with its process."""
    task_cache_ttl: DurationOrZero = timedelta(days=30)
    """How long an answer about a phone or an email serves equal inputs; 0 for never."""
    task_poll_min: Duration = timedelta(milliseconds=10)
    """Shortest pause between two looks for due tasks."""
    task_poll_max: Duration = timedelta(milliseconds=500)
    """Longest pause between two looks for due tasks."""
    task_pool_size: int = Field(4, ge=1)
    """Most connections to PostgreSQL of one process's tasks; none is held during a call."""
    task_database_deadline: Duration = timedelta(seconds=5)
    """How long one transaction of a task may take."""
    task_stop_deadline: Duration = timedelta(seconds=10)
    """How long calls under way may take after the process was told to stop."""
    provider_failures_to_close: Size = 3
    """After this many failures in a row a provider is left alone for a while, then tried with one call."""
    provider_pause_min: Duration = timedelta(seconds=2)
    """First pause of a provider that fails; it doubles."""
    provider_pause_max: Duration = timedelta(minutes=1)
    """Longest pause of a provider that fails, or that refuses us: a wrong key, no money."""

    @model_validator(mode="after")
    def _keys_are_not_sent_in_the_clear(self) -> Self:
        """A key goes over TLS, or does not leave this machine."""
        for name, key in (("dadata", self.dadata_api_key), ("yandexgpt", self.yandex_api_key or self.yandex_iam_token)):
            url: HttpUrl | None = getattr(self, f"{name}_url")
            if key is not None and url is not None and url.scheme == "http" and url.host not in _THIS_MACHINE:
                raise ValueError(f"{name.upper()}_URL must begin with https, or the key is sent in the clear")
        return self
