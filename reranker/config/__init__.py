"""The configuration tree: `args` of the application in serve_config.yaml. The only place where defaults live.

Frozen, and strict: an unknown key or a wrong value stops the start, before any device is taken.
"""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import Field, model_validator

from reranker.config.model import (
    CLIENTS_ORDER,
    CascadeConfig,
    EngineConfig,
    EvidenceConfig,
    ExclusionRule,
    Group,
    KeepAboveConfig,
    LongDocumentsConfig,
    ModelConfig,
    ModelName,
    NamedModelConfig,
    RulesConfig,
    SampleConfig,
    ShadowConfig,
    SimulatedConfig,
)
from reranker.config.search import EmbeddingConfig, MilvusConfig, SearchConfig, SearchIndexConfig
from reranker.config.service import (
    AccessConfig,
    AdmissionConfig,
    CacheConfig,
    IngressConfig,
    LimitsConfig,
    ObservabilityConfig,
    PlanningConfig,
    PrioritiesConfig,
    PriorityConfig,
    RedisConfig,
    ScalingConfig,
    ScatterConfig,
    TracingConfig,
    UIConfig,
)
from reranker.errors import UnknownInstructionError


class RerankerConfig(Group):
    """Everything that can be configured."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    models: dict[ModelName, NamedModelConfig] = Field(default_factory=dict, max_length=12)
    """Several models in place of `model` and `engine`, which then are the default's. At most twelve."""
    default: ModelName | None = None
    """Which of `models` ranks what names none of them. Only a single one needs none."""
    cascades: dict[ModelName, CascadeConfig] = Field(default_factory=dict, max_length=12)
    """Pairs of `models` that rank one after the other, by the name that requests give as `model`."""
    shadows: tuple[ShadowConfig, ...] = Field(default=(), max_length=4)
    """Lists that another model or instruction ranks too ([shadows](several-models.md#shadows)). At most four."""
    ingress: IngressConfig = IngressConfig()
    long_documents: LongDocumentsConfig = LongDocumentsConfig()
    rules: RulesConfig = RulesConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    planning: PlanningConfig = PlanningConfig()
    priorities: PrioritiesConfig = PrioritiesConfig()
    admission: AdmissionConfig = AdmissionConfig()
    scatter: ScatterConfig = ScatterConfig()
    cache: CacheConfig = CacheConfig()
    limits: LimitsConfig = LimitsConfig()
    access: AccessConfig = AccessConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    search: SearchConfig = SearchConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _default_stands_for_the_only_one(self) -> Self:
        """Whoever needs one model only has the default's settings in `model` and `engine`."""
        for key in ("model", "engine"):
            if self.models and key in self.model_fields_set:
                raise ValueError(f"{key}: is given beside models. Move it into one of them")
        if len(self.models) > 1 and self.default is None:  # not the first: tools that write YAML sort keys
            raise ValueError(f"default: is needed with several models. Give one of {', '.join(self.models)}")
        if self.default is not None and self.default not in self.models:
            known = ", ".join(self.models) or "none"
            raise ValueError(f"default: models has no {self.default}. Known there: {known}")
        for name, cascade in self.cascades.items():
            for stage in ("first", "then"):
                if (wanted := getattr(cascade, stage)) not in self.models:
                    known = ", ".join(self.models) or "none"
                    raise ValueError(f"cascades.{name}.{stage}: models has no {wanted}. Known there: {known}")
        adapters = [adapter for one in self.models.values() for adapter in one.engine.lora_adapters]
        for name, times in Counter([*self.models, *self.cascades, *adapters]).items():
            if times > 1:
                raise ValueError(f"{name} names several of the models, cascades and adapters; a request could not tell")
        if self.models:
            default = self._alone(self.names[0])
            vars(self).update(model=default.model, engine=default.engine)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, the default first. Where there is one only, it has none, and this is empty."""
        default = self.default or next(iter(self.models), "")
        return tuple(sorted(self.models, key=lambda name: name != default))

    def each_model(self) -> dict[str, RerankerConfig]:
        """The settings of each model by its name, the default first, as if it were alone. An only one has no name."""
        return {name: self._alone(name) for name in self.names} or {"": self}

    def _alone(self, name: str) -> RerankerConfig:
        named = self.models[name]
        model = ModelConfig.model_construct(**{key: getattr(named, key) for key in ModelConfig.model_fields})
        alone: dict[str, object] = {"models": {}, "default": None, "cascades": {}, "shadows": ()}
        return self.model_copy(update=alone | {"model": model, "engine": named.engine})

    @model_validator(mode="after")
    def _shadows_name_what_there_is(self) -> Self:
        each = self.each_model()
        adapters = {adapter: name for name, one in each.items() for adapter in one.engine.lora_adapters}
        known = [*self.models, *self.cascades, *adapters]
        pairs = []
        for number, shadow in enumerate(self.shadows, start=1):
            of = shadow.of or next(iter(each))
            other = shadow.other or of
            for key, name in (("of", shadow.of), ("with", shadow.other)):
                if name is not None and name not in known and (key, name) != ("with", CLIENTS_ORDER):
                    there = ", ".join(known) or "none by name; leave it out for the only model"
                    said = f"there is no model, adapter or cascade {name} ({key} of number {number})"
                    raise ValueError(f"shadows: {said}. Known are: {there}")
            if other == CLIENTS_ORDER and CLIENTS_ORDER in known:
                raise ValueError(f"shadows: {CLIENTS_ORDER} is the client's own order. Give the model another name")
            if other == of and shadow.instruction is None:
                raise ValueError(f"shadows: number {number} compares {of} with itself. Name another model")
            if (of, other) in pairs:
                raise ValueError(f"shadows: two are of {of or 'the model'} with the same. Keep one")
            pairs.append((of, other))
            ranks = self.cascades[other].first if other in self.cascades else adapters.get(other, other)
            if shadow.instruction is not None:
                try:
                    each[ranks].model.instruction_text(shadow.instruction)
                except UnknownInstructionError as error:
                    raise ValueError(f"shadows.{error}") from None
        return self

    @model_validator(mode="after")
    def _groups_agree(self) -> Self:
        """Each message begins with the key to change, and ends with how: `reranker config check` shows its line."""
        queue_s, timeout_s = self.admission.max_queue_s, self.limits.timeout_s
        if queue_s > timeout_s:
            raise ValueError(
                f"admission.max_queue_s: lists may queue {queue_s:g} s, and are given up after {timeout_s:g} s. "
                f"Lower it below limits.timeout_s"
            )
        for name, one in self.each_model().items():
            one._model_fits(f"models.{name}" if name else "model")
        return self

    def _model_fits(self, model: str) -> None:
        """Raise ValueError if the model, at this key, does not go with the rest."""
        pair_tokens, window_tokens = self.model.max_pair_tokens, self.long_documents.window_tokens
        if pair_tokens > self.planning.max_shard_tokens:
            raise ValueError(f"{model}.max_pair_tokens must not exceed planning.max_shard_tokens")
        if self.admission.max_tokens_in_flight < pair_tokens:
            raise ValueError(
                f"admission.max_tokens_in_flight: not even one document of {pair_tokens} tokens "
                f"({model}.max_pair_tokens) fits. Raise it: a whole list must fit"
            )
        if window_tokens is not None and window_tokens > pair_tokens:
            raise ValueError(
                f"long_documents.window_tokens: a window of {window_tokens} tokens does not fit a prompt of "
                f"{pair_tokens}. Lower it below {model}.max_pair_tokens"
            )
        for name, index in self.search.indexes.items():
            try:
                self.model.instruction_text(index.instruction)
            except UnknownInstructionError as error:
                raise ValueError(f"search.indexes.{name}.{error}") from None
        if self.model.name in self.engine.lora_adapters:
            raise ValueError("engine.lora_adapters has an adapter with the model's own name")
