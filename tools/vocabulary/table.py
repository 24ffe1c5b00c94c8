"""What `rename.py` renames. Globs are of paths in the checkout (`*` also crosses folders; `!` takes out)."""

# Names that are spelled so for one thing only (within their globs): every NAME token; with + also strings that are
# exactly the name (JSON keys, fields in dicts). `old new [+] [: globs]`
WORDS = """
# classes
Material Dataset
TextMaterial TextDataset
ExampleMaterial ExampleDataset
open_material open_dataset
training_material training_dataset
material_of dataset_of
material dataset
Masters MasterWeights
masters master_weights +
_point_to_masters _point_to_master_weights
Rhythm Intervals
rhythm intervals : src/lavra/training/* src/lavra/workflows/* tests/*
_rhythm _intervals
Observer Callback
Observers Callbacks
observers callbacks : src/lavra/training/* src/lavra/workflows/* tests/*
observer callback : src/lavra/training/* src/lavra/workflows/* tests/*
_observers _callbacks : src/lavra/training/* src/lavra/workflows/*
Ranks DistributedInfo
ranks distributed : src/lavra/training/* src/lavra/workflows/training/* src/lavra/workflows/planning/* src/lavra/planning/* src/lavra/checks/* tests/test_training_* tests/test_workflows_training_* tests/tiny_training.py tests/*_training.py tests/fake_gpu.py
Pace TimeBudget
pace time_budget
Outlook PlanReport
outlook plan_report
_outlook _plan_report
show_outlook show_plan_report
MemoryOutlook MemoryForecast
memory_outlook memory_forecast
Damaged CorruptFile
Wrapped HFModel
WrappedCache HFCache
open_wrapped open_hf_model
save_wrapped save_hf_model
write_wrapped write_hf_model
wrapped_card hf_model_card
wrapped_model hf_model
wrapped hf_model : tests/* bench/*
_WRAPPED _HF_MODEL
ModelEdit ModelTransform
EditConfig TransformConfig
edits transforms +
apply_edits apply_transforms
fold_edits merge_transforms
edits_of transforms_of
build_edited build_transformed
_unedited _untransformed
write_folded write_merged
folded merged : src/lavra/workflows/* src/lavra/models/transforms/* tests/test_workflows_* tests/test_models_transforms* tests/test_families_* src/lavra/cli/export.py
Rehearsal DryRun
rehearsal dry_run
_rehearsal _dry_run
probe_rehearsal probe_dry_run
_WORTH_REHEARSING _WORTH_A_DRY_RUN
Subject CheckContext
subject check_context : src/lavra/checks/* src/lavra/workflows/* tests/*
subjects check_contexts : src/lavra/checks/* src/lavra/workflows/* tests/*
make_subject make_check_context
subject_of check_context_of
decoder_subject decoder_check_context
stand_in_subject stand_in_check_context
run_battery run_suite
Assembly TrainingJob
assembly job
assemble build_training_job
train_to_the_end fit
Trial TimedSteps
try_steps time_steps
trial timed : src/lavra/planning/* src/lavra/workflows/* tests/*
Survey CorpusStats : !src/lavra/search/* !src/lavra/workflows/search/* !tests/test_search_*
Survey CorpusSample : src/lavra/search/* src/lavra/workflows/search/* tests/test_search_*
survey corpus_stats : !src/lavra/search/* !src/lavra/workflows/search/* !tests/test_search_*
survey sample_corpus : src/lavra/search/* src/lavra/workflows/search/* tests/test_search_*
survey_prepared corpus_stats_of_prepared
_survey _corpus_stats
HeldOut ValidationSet
HeldOutLoss ValidationLoss
held_out_loss validation_loss
is_held_out is_validation
held_out validation_set
held_out is_validation attr : src/lavra/data/* src/lavra/planning/corpus_stats.py src/lavra/workflows/datasets/preparation.py src/lavra/workflows/models/vocabulary.py tests/test_data_* tests/test_planning_corpus_stats.py
held_out_rows validation_rows +
HELD_OUT VALIDATION : bench/*
_HELD_OUT_TOKENS _VALIDATION_TOKENS
_HELD_OUT _VALIDATION_SHARE : src/lavra/workflows/search/*
set_apart assign_validation
Yardstick Baseline
yardsticks baselines +
_yardsticks _baselines
Answers Completion
Masked MaskedLM
GuardFaults AnomalyGuard
FaultConfig AnomalyConfig
most_in_a_row max_in_a_row +
_fault_recorder _anomaly_recorder
Recall NgramCopy
PairEmbedding BigramEmbedding
pair_embedding bigram_embedding +
GAIN_OF_PAIRS GAIN_OF_BIGRAM_EMBEDDING
GAIN_OF_RECALL GAIN_OF_NGRAM_COPY
Ledger DataUsage
SourceReceipt SourceUsage
ledger_section data_usage_section
_ledger _data_usage
ledger data_usage : !src/lavra/planning/* !tests/test_planning_* !bench/*
ledger live_memory : src/lavra/planning/* tests/test_planning_* bench/*
receipt data_usage : src/*
receipt usage : tests/*
receipts usages
AskedPassage TrainingPassage
asked_passages training_passages
LastOfEachId DeduplicateIds
QueryWriter QueryGenerator
ModelWriter ModelQueryGenerator
OpenWriter OpenQueryGenerator
open_writer open_query_generator
Law ScalingLaw
builtin_law builtin_scaling_law
law_for scaling_law_for
fit_law fit_scaling_law
run_law run_scaling_law
WindowOrder WindowShuffle
TextSample CorpusSample
# functions
say log
evaluating eval_mode
steps_of decode_steps
first_plan autoconfig
with_expectation with_forecast
start_from_bigrams init_from_bigrams
start_from_trigrams init_from_trigrams
can_start_from_bigrams can_init_from_bigrams
_begin_with_pairs _warm_start_with_trigrams
_measure_beginning _measure_warm_start
keep_base save_base
saved_modules find_modules_to_save
_guards _check_compatibility
one_ahead prefetch
cut_pieces cut_chunks
write_about write_provenance
read_about read_provenance
about provenance : src/lavra/workflows/search/* src/lavra/search/expansion/*
say_next log_next
say_plan log_plan
_say_inside_handler _log_inside_handler
fall_begins decay_begins
_fall _decay : src/lavra/training/optimizers/schedules.py
rates_after_bigrams lrs_after_bigrams
_EMBEDDING_RATE _EMBEDDING_LR
_HEAD_RATE _HEAD_LR
_RATE _LR : src/lavra/models/native/* src/lavra/reports/run_curves.py
_WARM_START_RATE _WARM_START_LR
_LEAST_RATES _LEAST_LRS
_same_rates _same_lrs
rates lrs : src/lavra/training/optimizers/* src/lavra/checks/gradients.py tests/test_checks_* tests/test_training_opt* src/lavra/workflows/training/*
rate lr : src/lavra/training/optimizers/* src/lavra/workflows/training/optimization.py src/lavra/models/native/*
spool row_cache : src/lavra/data/token_store/*
_spool _row_cache : src/lavra/data/token_store/*
read_spool read_row_cache
spooled write_row_cache
spool example_cache : src/lavra/data/examples/*
_SPOOL _EXAMPLE_CACHE
spool_examples write_example_cache
spooled_examples read_example_cache
extra model_inputs attr : tests/*
# fields that are spelled like nothing else
micro_rows micro_batch_size +
_micro_rows _micro_batch_size
rows_per_step global_batch_size +
_rows_per_step _global_batch_size
tokens_per_step batch_tokens +
tokens_per_step_for batch_tokens_for
cooldown decay_fraction +
matrix_learning_rate muon_lr +
matrix_weight_decay muon_weight_decay +
embedding_learning_rate embedding_lr +
base_bits quantize_base +
isolates supports_packing +
ENCODER_SEGMENTS ENCODER_DOCUMENT_IDS
segments document_ids + : !src/lavra/search/* !src/lavra/workflows/search/* !tests/test_search_* !bench/kill_search.py !bench/search.py !bench/*search*
SEGMENTS DOCUMENT_IDS : tests/*
real attention_mask : src/lavra/models/* src/lavra/generation/* tests/test_generation_* tests/test_models_*
_real _attention_mask : src/lavra/models/* tests/test_generation_* tests/test_models_*
source_real source_attention_mask
Generation Snapshot : src/lavra/search/* tests/test_search_* bench/*search*
generation snapshot : src/lavra/search/* src/lavra/workflows/search/* tests/test_search_* bench/*search*
build_generation build_snapshot
evaluate_ceiling evaluate_oracle
ceiling oracle + : src/lavra/search/* src/lavra/workflows/search/* src/lavra/cli/search.py tests/test_search_* tests/test_cli_search* bench/*search* bench/expansion.py
most top_k : src/lavra/search/search.py src/lavra/search/index/* src/lavra/workflows/search/search.py src/lavra/cli/search.py tests/test_search_search.py tests/test_search_index* tests/test_search_commands.py
most limit : src/lavra/text/* src/lavra/data/token_store/* src/lavra/reports/plots.py src/lavra/search/expansion/* src/lavra/generation/* src/lavra/workflows/generation/* tests/test_text_* tests/test_data_token_store* tests/test_reports_plots.py
beginning decoder_start_ids : src/lavra/generation/* src/lavra/models/hf/* tests/test_models_hf* tests/test_generation_encoder_decoders.py
beginnings bos : src/lavra/data/token_store/* src/lavra/workflows/* tests/test_data_*
"""

# Names that mean several things: only what the type checker refers to the declaration. `[glob:]path new`, where path is
# `name`, `Class.member`, `Class(param of __init__)`, `function(param)`, `Class.method(param)` or `function<local>`.
SYMBOLS = """
src/lavra/data/readers/rows.py:Row SourceDocument
src/lavra/data/readers/rows.py:Row.held_out is_validation
src/lavra/data/readers/locations.py:DataFile.held_out is_validation
src/lavra/data/examples/rows.py:ExampleRow.held_out is_validation
src/lavra/workflows/datasets/dataset.py:Material.bigrams(held_out) validation
src/lavra/workflows/datasets/dataset.py:TextMaterial.bigrams(held_out) validation
src/lavra/workflows/datasets/dataset.py:Material.beginning first_ids
src/lavra/workflows/datasets/dataset.py:TextMaterial.beginning first_ids
src/lavra/workflows/datasets/dataset.py:ExampleMaterial.beginning first_ids
src/lavra/workflows/models/ngram_init.py:begin warm_start
src/lavra/data/tokenizers/tokenizer.py:Tokenizer.beginning bos
src/lavra/training/precision.py:Masters.publish copy_to_model
src/lavra/training/precision.py:Masters.collect accumulate
src/lavra/training/batches.py:Ranks.world world_size
src/lavra/models/contract.py:Batch.extra model_inputs
src/lavra/config/training.py:OptimizationConfig.clip max_grad_norm
src/lavra/planning/plan.py:Plan.clip max_grad_norm
src/lavra/config/training.py:OptimizationConfig.floor min_lr_ratio
src/lavra/training/optimizers/schedules.py:Schedule.floor min_lr_ratio
src/lavra/config/training.py:OptimizationConfig.bigrams bigram_init
src/lavra/config/training.py:ModelConfig.pairs bigram_embedding
src/lavra/config/training.py:ModelConfig.recall ngram_copy
src/lavra/models/spec.py:DecoderSpec.pairs bigram_embedding
src/lavra/models/spec.py:DecoderSpec.recall ngram_copy
src/lavra/models/native/decoder.py:Decoder.recall ngram_copy
src/lavra/models/native/ngrams.py:PairEmbedding(pairs) rows
src/lavra/config/training.py:TrainConfig.faults anomalies
src/lavra/config/transforms.py:AdapterConfig.saved modules_to_save
src/lavra/models/transforms/adapters.py:Adapter.saved modules_to_save
src/lavra/models/transforms/*:Adapter.fold merge
src/lavra/models/transforms/*:ModelEdit.fold merge
src/lavra/models/transforms/*:CheckpointBlocks.fold merge
src/lavra/models/transforms/*:Freeze.fold merge
src/lavra/models/transforms/*:Prefix.fold merge
src/lavra/models/transforms/*:Quantize.fold merge
src/lavra/models/transforms/*:ResizeVocabulary.fold merge
src/lavra/generation/scores.py:Scores.likeliest greedy
src/lavra/workflows/training/build.py:update_chain<faults> anomalies
src/lavra/workflows/models/ngram_init.py:begin<held_out> validation
"""

# Strings that are exactly a key, a field or a choice, within globs.
KEYS = """
answers completion : src/lavra/config/choices.py src/lavra/workflows/* tests/test_workflows_adapting.py
masked mlm : src/lavra/config/choices.py src/lavra/workflows/* tests/test_reports_page.py tests/test_workflows_*
held_out_documents validation_documents
held_out_copies validation_copies
held_out_near_duplicates validation_near_duplicates
held_out_bits_per_byte validation_bits_per_byte
held_out_text validation_text
held_out validation : src/lavra/reports/run_comparison.py
ledger data_usage : src/lavra/reports/* src/lavra/core/* src/lavra/workflows/* tests/*
pairs bigram_embedding : src/lavra/workflows/training/autoconfig.py tests/test_devices.py tests/test_devices_answers.py tests/test_workflows_training_train.py tests/test_workflows_training_autoconfig.py
recall ngram_copy : src/lavra/workflows/training/autoconfig.py tests/test_devices.py tests/test_devices_answers.py src/lavra/models/native/decoder.py tests/test_workflows_training_train.py tests/test_workflows_training_autoconfig.py
faults anomalies : src/lavra/training/updates/anomalies.py tests/test_workflows_* tests/test_training_identity.py
likeliest greedy : src/lavra/workflows/search/*
drawn sampled : src/lavra/workflows/search/* tests/test_search_generator.py
beginning decoder_start_ids : src/lavra/generation/*
real attention_mask : src/lavra/models/reference.py tests/test_models_* tests/test_families_*
encoder_segments encoder_document_ids
bigrams bigram_init : tests/test_workflows_* tests/test_planning_*
floor min_lr_ratio : tests/test_workflows_* tests/test_training_*
clip max_grad_norm : src/lavra/workflows/training/*
"""

# Flags and dotted options in any string, comment or document. Longest first.
FLAGS = """
--edits.adapter.saved --transforms.adapter.modules-to-save
--edits.base-bits --transforms.quantize-base
--edits. --transforms.
--adapter.saved --adapter.modules-to-save
adapter.saved adapter.modules_to_save
--model.recall --model.ngram-copy
--model.no-recall --model.no-ngram-copy
--model.pairs --model.bigram-embedding
model.recall model.ngram_copy
model.pairs model.bigram_embedding
--optimization.clip --optimization.max-grad-norm
--optimization.floor --optimization.min-lr-ratio
--optimization.cooldown --optimization.decay-fraction
--optimization.bigrams --optimization.bigram-init
--optimization.no-bigrams --optimization.no-bigram-init
--optimization.tokens-per-step --optimization.batch-tokens
--optimization.matrix-learning-rate --optimization.muon-lr
--optimization.matrix-weight-decay --optimization.muon-weight-decay
--optimization.embedding-learning-rate --optimization.embedding-lr
optimization.tokens_per_step optimization.batch_tokens
optimization.matrix_learning_rate optimization.muon_lr
optimization.matrix_weight_decay optimization.muon_weight_decay
optimization.embedding_learning_rate optimization.embedding_lr
optimization.clip optimization.max_grad_norm
optimization.floor optimization.min_lr_ratio
optimization.cooldown optimization.decay_fraction
optimization.bigrams optimization.bigram_init
--machine.micro-rows --machine.micro-batch-size
machine.micro_rows machine.micro_batch_size
--micro-rows --micro-batch-size
--tokens-per-step --batch-tokens
--faults.most-in-a-row --anomalies.max-in-a-row
faults.most_in_a_row anomalies.max_in_a_row
--faults. --anomalies.
faults.policy anomalies.policy
faults.spikes anomalies.spikes
--ceiling --oracle : src/* tests/* docs/* README* Makefile .ci/run bench/expansion.py bench/*search*
--most --top-k
--objective.name=answers --objective.name=completion
--objective.name=masked --objective.name=mlm
edits.adapter transforms.adapter
edits.freeze transforms.freeze
edits.vocabulary transforms.vocabulary
edits.base_bits transforms.quantize_base
edits.gradient_checkpointing transforms.gradient_checkpointing
"""

# Exact pieces of strings, comments and documents.
TEXTS = [
    ("model\\.recall", "model\\.ngram_copy", "tests/*"),
    ("model\\.pairs", "model\\.bigram_embedding", "tests/*"),
    ("progress.say(", "progress.log(", "tests/*"),
    ('store.save(step, {"masters"', 'store.save(step, {"master_weights"', "tests/*"),
    ("recall = True", "ngram_copy = True", "tests/*"),
    ("[optimization]\ntokens_per_step", "[optimization]\nbatch_tokens", ""),
    ("masters.safetensors", "master_weights.safetensors", ""),
    (r"masters\.safetensors", r"master_weights\.safetensors", ""),
    ("masters/{", "master_weights/{", ""),
    (".about.json", ".provenance.json", ""),
    ("masters/", "master_weights/", "tests/*"),
    ("causal, answers, seq2seq or masked", "causal, completion, seq2seq or mlm", ""),
    ("answers: only the completions of prompts", "completion: only the completions of prompts", ""),
    ("    masked: hidden words from both sides", "    mlm: hidden words from both sides", ""),
    ("--objective answers", "--objective completion", ""),
    ("--objective masked", "--objective mlm", ""),
    ("--objective.name answers", "--objective.name completion", ""),
    ("--objective.name masked", "--objective.name mlm", ""),
]

# Exact pieces of code, after all else: format versions and what needs a person.
CODE = [
    ("replace(SPEC, pairs=512)", "replace(SPEC, bigram_embedding=512)", "tests/test_models_native_trigram_init.py"),
    ("replace(LLAMA, pairs=64), \"pairs = 64\"", "replace(LLAMA, bigram_embedding=64), \"bigram_embedding = 64\"", "tests/test_families_export.py"),
    ("replace(tiny.SPEC, pairs=64)", "replace(tiny.SPEC, bigram_embedding=64)", "tests/test_devices.py"),
    ("floor=st.floats", "min_lr_ratio=st.floats", "tests/test_training_optimizers_schedules.py"),
    ("document_ids=None, extra=extra)", "document_ids=None, model_inputs=extra)", "tests/test_checks_wrapped.py"),
    ("compile=True, threads=2,\n        optimizer=", "compile=True,\n        threads=2, optimizer=", "tests/plans.py"),
    ('clip=float("inf")', 'max_grad_norm=float("inf")', "tests/test_planning_budget.py"),
    ("replace(LLAMA, recall=True)", "replace(LLAMA, ngram_copy=True)", "tests/test_families_export.py"),
    ("FORMAT = 1\n", "FORMAT = 2\n", "src/lavra/training/checkpoints/format.py"),
    ("FORMAT = 1\n", "FORMAT = 2\n", "src/lavra/models/native/store.py"),
]

FILES = """
src/lavra/models/contract.py src/lavra/models/protocols.py
src/lavra/data/order.py src/lavra/data/shuffle.py
tests/wrapped_models.py tests/hf_models.py
tests/wrapped_training.py tests/hf_training.py
tests/check_subjects.py tests/check_contexts.py
tests/test_training_wrapped.py tests/test_training_hf.py
tests/test_checks_wrapped.py tests/test_checks_hf.py
tests/test_models_token_pairs.py tests/test_models_bigram_embedding.py
tests/test_models_unfolded.py tests/test_models_unmerged.py
tests/test_reports_damaged.py tests/test_reports_corrupt.py
src/lavra/models/hf/unfolded.py src/lavra/models/hf/unmerged.py
"""

# Docstrings of constants that are split, by hand: (file, "A B") -> one docstring or "" each.
DOCSTRINGS: dict[tuple[str, str], list[str]] = {}

# Old names of SYMBOLS that also mean other things: not reported where they are left.
COMMON = {"say", "Row", "begin", "collect", "world", "extra", "pairs", "saved", "bigrams", "floor", "held_out"}
