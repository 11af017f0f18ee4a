from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Protocol, Self

class GlideError(Exception):
    def __init__(self, message: str | None = None) -> None: ...

class ClosingError(GlideError): ...
class RequestError(GlideError): ...
class TimeoutError(RequestError): ...

class LogLevel(Enum):
    ERROR = 0
    WARN = 1
    INFO = 2
    DEBUG = 3
    TRACE = 4
    OFF = 5

class Logger:
    def __init__(self, level: LogLevel | None = None, file_name: str | None = None) -> None: ...
    @classmethod
    def init(cls, level: LogLevel | None = None, file_name: str | None = None) -> None: ...
    @classmethod
    def set_logger_config(cls, level: LogLevel | None = None, file_name: str | None = None) -> None: ...

class NodeAddress:
    def __init__(self, host: str = "localhost", port: int = 6379, *, unix_socket_path: str | None = None) -> None: ...

class ServerCredentials:
    def __init__(
        self, password: str | None = None, username: str | None = None, iam_config: object | None = None
    ) -> None: ...

class BackoffStrategy:
    def __init__(
        self, num_of_retries: int, factor: int, exponent_base: int, jitter_percent: int | None = None
    ) -> None: ...

class TlsAdvancedConfiguration:
    def __init__(
        self,
        use_insecure_tls: bool | None = None,
        root_pem_cacerts: bytes | None = None,
        client_cert_pem: bytes | None = None,
        client_key_pem: bytes | None = None,
        *,
        client_cert_path: object | None = None,
        client_key_path: object | None = None,
        cert_reload_interval_seconds: int | None = None,
    ) -> None: ...

class AdvancedGlideClientConfiguration:
    def __init__(
        self,
        connection_timeout: int | None = None,
        tls_config: TlsAdvancedConfiguration | None = None,
        tcp_nodelay: bool | None = None,
        pubsub_reconciliation_interval: int | None = None,
    ) -> None: ...

class AdvancedGlideClusterClientConfiguration:
    def __init__(
        self,
        connection_timeout: int | None = None,
        tls_config: TlsAdvancedConfiguration | None = None,
        refresh_topology_from_initial_nodes: bool = False,
        tcp_nodelay: bool | None = None,
        pubsub_reconciliation_interval: int | None = None,
    ) -> None: ...

@dataclass
class PubSubMsg:
    message: bytes
    channel: bytes
    pattern: bytes | None

_Callback = Callable[[PubSubMsg, Any], None]

class GlideClientConfiguration:
    class PubSubChannelModes(IntEnum):
        Exact = 0
        Pattern = 1

    class PubSubSubscriptions:
        def __init__(
            self,
            channels_and_patterns: Mapping[GlideClientConfiguration.PubSubChannelModes, Set[str]],
            callback: _Callback | None,
            context: object,
        ) -> None: ...

    @dataclass
    class PubSubState:
        desired_subscriptions: dict[GlideClientConfiguration.PubSubChannelModes, set[str]]
        actual_subscriptions: dict[GlideClientConfiguration.PubSubChannelModes, set[str]]

    def __init__(
        self,
        addresses: list[NodeAddress],
        use_tls: bool = False,
        credentials: ServerCredentials | None = None,
        read_from: object = ...,
        request_timeout: int | None = None,
        reconnect_strategy: BackoffStrategy | None = None,
        database_id: int | None = None,
        client_name: str | None = None,
        protocol: object = ...,
        pubsub_subscriptions: PubSubSubscriptions | None = None,
        inflight_requests_limit: int | None = None,
        client_az: str | None = None,
        advanced_config: AdvancedGlideClientConfiguration | None = None,
        lazy_connect: bool | None = None,
        compression: object | None = None,
        read_only: bool = False,
        client_side_cache: object | None = None,
        node_discovery_mode: object = ...,
        address_resolver: object | None = None,
        client_circuit_breaker: object | None = None,
        lib_name: str | None = None,
        client_info_tag: str | None = None,
        rdma: object | None = None,
    ) -> None: ...

class GlideClusterClientConfiguration:
    class PubSubChannelModes(IntEnum):
        Exact = 0
        Pattern = 1
        Sharded = 2

    class PubSubSubscriptions:
        def __init__(
            self,
            channels_and_patterns: Mapping[GlideClusterClientConfiguration.PubSubChannelModes, Set[str]],
            callback: _Callback | None,
            context: object,
        ) -> None: ...

    @dataclass
    class PubSubState:
        desired_subscriptions: dict[GlideClusterClientConfiguration.PubSubChannelModes, set[str]]
        actual_subscriptions: dict[GlideClusterClientConfiguration.PubSubChannelModes, set[str]]

    def __init__(
        self,
        addresses: list[NodeAddress],
        use_tls: bool = False,
        credentials: ServerCredentials | None = None,
        read_from: object = ...,
        request_timeout: int | None = None,
        reconnect_strategy: BackoffStrategy | None = None,
        database_id: int | None = None,
        client_name: str | None = None,
        protocol: object = ...,
        periodic_checks: object = ...,
        pubsub_subscriptions: PubSubSubscriptions | None = None,
        inflight_requests_limit: int | None = None,
        recovery_requests_queue_size: int | None = None,
        client_az: str | None = None,
        advanced_config: AdvancedGlideClusterClientConfiguration | None = None,
        lazy_connect: bool | None = None,
        compression: object | None = None,
        client_side_cache: object | None = None,
        address_resolver: object | None = None,
        client_circuit_breaker: object | None = None,
        lib_name: str | None = None,
        client_info_tag: str | None = None,
        rdma: object | None = None,
    ) -> None: ...

class _Batch:
    def __init__(self, is_atomic: bool) -> None: ...
    def custom_command(self, command_args: list[str | bytes | bytearray | memoryview]) -> Self: ...
    def hget(self, key: str | bytes, field: str | bytes) -> Self: ...

class Batch(_Batch): ...
class ClusterBatch(_Batch): ...
class Route: ...

class AllPrimaries(Route):
    def __init__(self) -> None: ...

class SlotType(Enum):
    PRIMARY = 1
    REPLICA = 2

class SlotKeyRoute(Route):
    def __init__(self, slot_type: SlotType, slot_key: str) -> None: ...

class BatchOptions:
    def __init__(self, timeout: int | None = None) -> None: ...

class ClusterBatchOptions:
    def __init__(
        self, timeout: int | None = None, route: SlotKeyRoute | None = None, retry_strategy: object | None = None
    ) -> None: ...

class _Client(Protocol):
    async def close(self, err_message: str | None = None) -> None: ...
    async def subscribe(self, channels: Set[str], timeout_ms: int = 0) -> None: ...
    async def unsubscribe_lazy(self, channels: Set[str] | None = None) -> None: ...

class GlideClient(_Client):
    @classmethod
    async def create(cls, config: GlideClientConfiguration) -> Self: ...
    async def ping(self, message: str | bytes | None = None) -> bytes: ...
    async def custom_command(self, command_args: list[str | bytes | bytearray | memoryview]) -> object: ...
    async def exec(self, batch: Batch, raise_on_error: bool, options: BatchOptions | None = None) -> list[object] | None: ...
    async def get_subscriptions(self) -> GlideClientConfiguration.PubSubState: ...
    async def function_load(self, library_code: str | bytes, replace: bool = False) -> bytes: ...
    async def function_delete(self, library_name: str | bytes) -> str: ...

class GlideClusterClient(_Client):
    @classmethod
    async def create(cls, config: GlideClusterClientConfiguration) -> Self: ...
    async def ping(self, message: str | bytes | None = None, route: Route | None = None) -> bytes: ...
    async def custom_command(self, command_args: list[str | bytes | bytearray | memoryview], route: Route | None = None) -> object: ...
    async def exec(
        self, batch: ClusterBatch, raise_on_error: bool, options: ClusterBatchOptions | None = None
    ) -> list[object] | None: ...
    async def get_subscriptions(self) -> GlideClusterClientConfiguration.PubSubState: ...
    async def function_load(
        self, library_code: str | bytes, replace: bool = False, route: Route | None = None
    ) -> bytes: ...
    async def function_delete(self, library_name: str | bytes, route: Route | None = None) -> str: ...
