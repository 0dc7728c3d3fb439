package partition

import (
	"context"
	"errors"
	"time"

	"github.com/firnlog/firn/record"
)

var errStub = errors.New("partition: being built")

// Partition is one partition of a topic, open on this broker.
type Partition struct{}

func Open(dir string, tp record.TopicPartition, id record.TopicID, cfg Config, deps Deps) (*Partition, error) {
	return nil, errStub
}
func (p *Partition) TP() record.TopicPartition { return record.TopicPartition{} }
func (p *Partition) TopicID() record.TopicID   { return record.TopicID{} }
func (p *Partition) SetConfig(cfg Config)      {}
func (p *Partition) SetEpoch(e record.Epoch)   {}
func (p *Partition) Append(batches []byte, origin Origin) (AppendResult, error) {
	return AppendResult{}, errStub
}
func (p *Partition) Read(ctx context.Context, r ReadRequest) (ReadResult, error) {
	return ReadResult{}, errStub
}
func (p *Partition) IsCold(o record.Offset) bool { return false }
func (p *Partition) AwaitHighWatermark(o record.Offset, fn func(error)) (cancel func()) {
	return func() {}
}
func (p *Partition) Subscribe(wake chan<- struct{}) (cancel func()) { return func() {} }
func (p *Partition) State() State                                   { return State{} }
func (p *Partition) OffsetForTimestamp(ctx context.Context, ts int64, iso record.Isolation) (record.TimestampOffset, error) {
	return record.NoTimestampOffset, errStub
}
func (p *Partition) MaxTimestamp(ctx context.Context) (record.TimestampOffset, error) {
	return record.NoTimestampOffset, errStub
}
func (p *Partition) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) { return -1, -1 }
func (p *Partition) EpochAt(o record.Offset) record.Epoch                  { return -1 }
func (p *Partition) DeleteRecords(o record.Offset) (lowWatermark record.Offset, err error) {
	return -1, errStub
}
func (p *Partition) Producers() []ProducerState                                 { return nil }
func (p *Partition) RunRetention(now time.Time) (deleted int, err error)        { return 0, errStub }
func (p *Partition) Roll() error                                                { return errStub }
func (p *Partition) Sync() error                                                { return errStub }
func (p *Partition) Close() error                                               { return errStub }
func (p *Partition) Delete() error                                              { return errStub }
func (p *Partition) Sealed(from record.Offset) []record.Segment                 { return nil }
func (p *Partition) OpenSealed(base record.Offset) (*record.SealedFiles, error) { return nil, errStub }
func (p *Partition) SetTieredEnd(end record.Offset)                             {}
func (p *Partition) AdvanceLogStart(o record.Offset) error                      { return errStub }
func (p *Partition) LogStart() record.Offset                                    { return 0 }
func (p *Partition) Epochs() []record.EpochStart                                { return nil }
