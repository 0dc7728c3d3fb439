// Package group is the coordinator of consumer groups (the classic protocol):
// who is a member of which group in which generation, and the offsets that
// groups have committed. Decisions are made by a pure core, one per group,
// that knows no clock, goroutine or I/O; the Coordinator around it keeps time,
// writes the core's records to __consumer_offsets and calls replies.
// Protocol framing, authorisation and topic ids do not belong here.
package group

import (
	"context"
	"log/slog"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Log is one partition of __consumer_offsets, given by the broker.
type Log interface {
	// Append writes one batch and returns the offset it was given. The batch
	// is durable, as with acks=all, when it returns.
	Append(batch record.Batch) (record.Offset, error)
	// Replay calls fn with all batches from the start of the log to its end.
	Replay(ctx context.Context, fn func(record.Batch) error) error
	// TrimTo says that records below o are no longer needed.
	TrimTo(o record.Offset) error
	// End is the offset that the next record will get.
	End() record.Offset
}

// Config is the coordinator's settings; zero values take the defaults.
type Config struct {
	OffsetsPartitions     int32         // partitions of __consumer_offsets; 50
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms; 3 s; negative: none
	MinSessionTimeout     time.Duration // group.min.session.timeout.ms; 6 s
	MaxSessionTimeout     time.Duration // group.max.session.timeout.ms; 30 min
	MaxSize               int           // members per group, group.max.size; no limit but the protocol's
	MaxGroups             int           // groups in all; 100,000
	OffsetsRetention      time.Duration // of an empty group's offsets; 7 d
	RetentionCheck        time.Duration // how often expired offsets are looked for; 10 min
	MaxMetadataBytes      int           // of one committed offset; 4096
	MaxMemberBytes        int           // of one member's subscription metadata or assignment, each; 1 MiB
	MaxGroupOffsets       int           // committed partitions per group; 1,000,000
	SnapshotBytes         int64         // appended bytes after which a partition's log is rewritten; 16 MiB
}

// Deps is what the coordinator needs from outside.
type Deps struct {
	Log *slog.Logger     // nil: discard
	Now func() time.Time // nil: time.Now
}

// ClientInfo says who sent a request; DescribeGroups shows it.
type ClientInfo struct {
	ClientID string
	Host     string // "/" and the address, as Kafka shows it
}

// Coordinator answers for the groups of the partitions that are loaded.
type Coordinator struct {
	cfg  Config
	deps Deps
}

// New makes a coordinator that has no partition loaded.
func New(cfg Config, deps Deps) *Coordinator { return &Coordinator{cfg: cfg, deps: deps} }

// PartitionFor says which partition of __consumer_offsets holds the group.
func (c *Coordinator) PartitionFor(group string) int32 { return 0 }

// Load replays the log of one partition and answers for its groups from then on.
func (c *Coordinator) Load(ctx context.Context, partition int32, log Log) error { return nil }

// Unload stops answering for one partition; waiting replies get NOT_COORDINATOR.
func (c *Coordinator) Unload(partition int32) {}

// Close unloads every partition and stops the timers.
func (c *Coordinator) Close() {}

// JoinGroup answers versions 0–9; reply is called exactly once, maybe much later.
func (c *Coordinator) JoinGroup(cl ClientInfo, req *kmsg.JoinGroupRequest, reply func(*kmsg.JoinGroupResponse)) {
	reply(req.ResponseKind().(*kmsg.JoinGroupResponse))
}

// SyncGroup answers versions 0–5; reply is called exactly once, maybe much later.
func (c *Coordinator) SyncGroup(cl ClientInfo, req *kmsg.SyncGroupRequest, reply func(*kmsg.SyncGroupResponse)) {
	reply(req.ResponseKind().(*kmsg.SyncGroupResponse))
}

// Heartbeat answers versions 0–4.
func (c *Coordinator) Heartbeat(req *kmsg.HeartbeatRequest) *kmsg.HeartbeatResponse {
	return req.ResponseKind().(*kmsg.HeartbeatResponse)
}

// LeaveGroup answers versions 0–5.
func (c *Coordinator) LeaveGroup(req *kmsg.LeaveGroupRequest) *kmsg.LeaveGroupResponse {
	return req.ResponseKind().(*kmsg.LeaveGroupResponse)
}

// OffsetCommit answers versions 2–10; topics are known by name.
func (c *Coordinator) OffsetCommit(req *kmsg.OffsetCommitRequest) *kmsg.OffsetCommitResponse {
	return req.ResponseKind().(*kmsg.OffsetCommitResponse)
}

// OffsetFetch answers versions 1–10; topics are known by name.
func (c *Coordinator) OffsetFetch(req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	return req.ResponseKind().(*kmsg.OffsetFetchResponse)
}

// DescribeGroups answers versions 0–6.
func (c *Coordinator) DescribeGroups(req *kmsg.DescribeGroupsRequest) *kmsg.DescribeGroupsResponse {
	return req.ResponseKind().(*kmsg.DescribeGroupsResponse)
}

// ListGroups answers versions 0–5.
func (c *Coordinator) ListGroups(req *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	return req.ResponseKind().(*kmsg.ListGroupsResponse)
}

// DropTopic deletes the offsets that any group committed for a deleted topic.
func (c *Coordinator) DropTopic(name string) {}
