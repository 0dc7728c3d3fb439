package tiering

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/record"
)

// PartitionStatus is what `firn tier status` shows of one partition.
type PartitionStatus struct {
	Topic         string             `json:"topic"`
	TopicID       string             `json:"topicId"`
	Partition     record.PartitionID `json:"partition"`
	State         string             `json:"state"` // ok, disabled, loading (manifest not read yet), retrying, failed
	Enabled       bool               `json:"enabled"`
	LogStart      record.Offset      `json:"logStart"`
	RemoteStart   record.Offset      `json:"remoteStart"`
	RemoteEnd     record.Offset      `json:"remoteEnd"`   // exclusive
	RemoteBytes   int64              `json:"remoteBytes"` // without indexes
	Objects       int                `json:"objects"`
	Segments      int                `json:"segments"`
	LocalStart    record.Offset      `json:"localStart"` // of the oldest sealed segment on disk, -1 for none
	LocalSegments int                `json:"localSegments"`
	LocalBytes    int64              `json:"localBytes"` // sealed segments on disk
	LagSegments   int                `json:"lagSegments"`
	LagOffsets    int64              `json:"lagOffsets"` // sealed and not yet tiered
	LagBytes      int64              `json:"lagBytes"`
	LagMs         int64              `json:"lagMs"`      // how long the oldest of these has been known
	Generation    int64              `json:"generation"` // of the pointer
	LastUploadMs  int64              `json:"lastUploadMs"`
	LastError     string             `json:"lastError,omitempty"`
	LastErrorMs   int64              `json:"lastErrorMs,omitempty"`
}

// Status describes the attached partitions of a topic ("" for all), ordered
// by topic and partition.
func (m *Manager) Status(topic string) []PartitionStatus {
	var list []PartitionStatus
	for _, p := range m.attached() {
		if topic == "" || p.tp.Topic == topic {
			list = append(list, m.status(p))
		}
	}
	slices.SortFunc(list, func(a, b PartitionStatus) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}

func (m *Manager) status(p *part) PartitionStatus {
	now := m.deps.Now()
	s := PartitionStatus{
		Topic: p.tp.Topic, TopicID: p.key.id.String(), Partition: p.key.p,
		State: "ok", LogStart: p.hot.LogStart(), LocalStart: -1,
	}
	v := p.view.Load()
	if v != nil {
		s.RemoteStart, s.RemoteEnd, s.RemoteBytes = v.ptr.Start, v.ptr.End, v.bytes
		s.Objects, s.Segments, s.Generation = v.objects, len(v.entries()), v.ptr.Generation
	}
	for i, seg := range p.hot.Sealed(0) {
		if i == 0 {
			s.LocalStart = seg.Base
		}
		s.LocalSegments++
		s.LocalBytes += seg.Bytes
		if v != nil && seg.End > v.ptr.End {
			s.LagSegments++
			s.LagBytes += seg.Bytes
			s.LagOffsets += int64(seg.End - max(seg.Base, v.ptr.End))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Enabled = p.policy.Enabled
	if !p.waiting.IsZero() && s.LagSegments > 0 {
		s.LagMs = now.Sub(p.waiting).Milliseconds()
	}
	if !p.lastUpload.IsZero() {
		s.LastUploadMs = p.lastUpload.UnixMilli()
	}
	switch {
	case p.failed != nil:
		s.State = "failed"
	case v != nil && !v.loaded:
		s.State = "loading"
	case p.err != nil:
		s.State = "retrying"
	case !p.policy.Enabled:
		s.State = "disabled"
	}
	if p.err != nil {
		s.LastError, s.LastErrorMs = p.err.Error(), p.errAt.UnixMilli()
	}
	return s
}

// health turns many failures into one line when they begin and one when they
// end.
type health struct {
	mu  sync.Mutex
	bad map[record.TopicPartition]bool
}

func (h *health) note(log *slog.Logger, tp record.TopicPartition, err error) {
	h.mu.Lock()
	was := len(h.bad)
	if err != nil {
		if h.bad == nil {
			h.bad = map[record.TopicPartition]bool{}
		}
		h.bad[tp] = true
	} else {
		delete(h.bad, tp)
	}
	is := len(h.bad)
	h.mu.Unlock()
	retrying.Set(float64(is))
	switch {
	case was == 0 && is > 0:
		log.Warn("tiering does not get on; it is tried again and nothing local is deleted meanwhile", "partition", tp.String(), "err", err)
	case was > 0 && is == 0:
		log.Info("tiering works again")
	}
}

// forget is for partitions that are tried no more.
func (h *health) forget(tp record.TopicPartition) {
	h.mu.Lock()
	delete(h.bad, tp)
	is := len(h.bad)
	h.mu.Unlock()
	retrying.Set(float64(is))
}

var (
	uploads           = metrics.GetOrCreateCounter("firn_tiering_uploads_total")
	uploadRuns        = metrics.GetOrCreateCounter("firn_tiering_uploaded_runs_total")
	uploadBytes       = metrics.GetOrCreateCounter("firn_tiering_uploaded_bytes_total")
	uploadFailures    = metrics.GetOrCreateCounter("firn_tiering_upload_failures_total")
	uploadCorrupt     = metrics.GetOrCreateCounter("firn_tiering_upload_corrupt_local_total")
	uploadSeconds     = metrics.GetOrCreateHistogram("firn_tiering_upload_seconds")
	commits           = metrics.GetOrCreateCounter("firn_tiering_commits_total")
	casFailures       = metrics.GetOrCreateCounter("firn_tiering_commit_failures_total")
	folds             = metrics.GetOrCreateCounter("firn_tiering_manifest_folds_total")
	copyFailures      = metrics.GetOrCreateCounter("firn_tiering_pointer_copy_failures_total")
	partitionFailures = metrics.GetOrCreateCounter("firn_tiering_failed_partitions_total")
	retrying          = metrics.GetOrCreateGauge("firn_tiering_retrying_partitions", nil)
	queueDepth        = metrics.GetOrCreateGauge("firn_tiering_queued_segments", nil)
	lagBytes          = metrics.GetOrCreateGauge("firn_tiering_lag_bytes", nil)
	lagSeconds        = metrics.GetOrCreateGauge("firn_tiering_lag_seconds", nil)
	retentions        = metrics.GetOrCreateCounter("firn_tiering_retentions_total")
	deletedObjects    = metrics.GetOrCreateCounter("firn_tiering_deleted_objects_total")
	sweeps            = metrics.GetOrCreateCounter("firn_tiering_sweeps_total")
	sweepFailures     = metrics.GetOrCreateCounter("firn_tiering_sweep_failures_total")
	orphans           = metrics.GetOrCreateGauge("firn_tiering_orphans", nil)
	orphansDeleted    = metrics.GetOrCreateCounter("firn_tiering_orphans_deleted_total")
	coldReads         = metrics.GetOrCreateCounter("firn_tiering_cold_reads_total")
	coldReadFailures  = metrics.GetOrCreateCounter("firn_tiering_cold_read_failures_total")
	coldHits          = metrics.GetOrCreateCounter("firn_tiering_cold_block_hits_total")
	coldMisses        = metrics.GetOrCreateCounter("firn_tiering_cold_block_misses_total")
	coldFailures      = metrics.GetOrCreateCounter("firn_tiering_cold_get_failures_total")
	coldCorrupt       = metrics.GetOrCreateCounter("firn_tiering_cold_corrupt_total")
	coldBytes         = metrics.GetOrCreateCounter("firn_tiering_cold_get_bytes_total")
	coldSeconds       = metrics.GetOrCreateHistogram("firn_tiering_cold_get_seconds")
	readaheadBlocks   = metrics.GetOrCreateCounter("firn_tiering_readahead_blocks_total")
	readaheadBytes    = metrics.GetOrCreateCounter("firn_tiering_readahead_bytes_total")
	hedges            = metrics.GetOrCreateCounter("firn_tiering_hedged_gets_total")
)
