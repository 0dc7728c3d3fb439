package tiering

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/record"
)

// ObjectID is an object's UUID, version 7 (RFC 9562): its first 48 bits are
// the time of making in Unix milliseconds.
type ObjectID uuid.UUID

// String gives the usual 36 characters.
func (id ObjectID) String() string { return uuid.UUID(id).String() }

// MarshalText makes JSON show it as String does.
func (id ObjectID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// IsZero says whether there is none.
func (id ObjectID) IsZero() bool { return id == ObjectID{} }

// Time is when the object was named, by the clock of its maker.
func (id ObjectID) Time() time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}

func newObjectID(now time.Time) ObjectID {
	var id ObjectID
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(id[:6], ms[2:])
	rand.Read(id[6:])
	id[6] = 7<<4 | id[6]&0x0f
	id[8] = 2<<6 | id[8]&0x3f
	return id
}

// ObjectKey is where the object of a cluster lies: <8 hex>/<cluster>/<uuid>.
// The digits are a hash of the rest, so that keys spread over the store's
// partitions, and so that a key can be told from a foreign one.
func ObjectKey(cluster string, id ObjectID) string {
	rest := cluster + "/" + id.String()
	return fmt.Sprintf("%08x/%s", record.CRC32C([]byte(rest)), rest)
}

// parseKey gives the id of one of this cluster's objects; ok is false for any
// other key.
func parseKey(cluster, key string) (id ObjectID, ok bool) {
	_, rest, _ := strings.Cut(key, "/")
	name, mine := strings.CutPrefix(rest, cluster+"/")
	if !mine || len(name) != 36 {
		return ObjectID{}, false
	}
	u, err := uuid.Parse(name)
	if err != nil {
		return ObjectID{}, false
	}
	return ObjectID(u), ObjectKey(cluster, ObjectID(u)) == key
}

// PointerKey is where the copy of a partition's pointer lies in the bucket.
func PointerKey(cluster string, id record.TopicID, p record.PartitionID) string {
	return fmt.Sprintf("%s%s/%d", pointerPrefix(cluster), id.Hex(), p)
}

func pointerPrefix(cluster string) string { return "pointers/" + cluster + "/" }

// parsePointerKey reads what PointerKey wrote for this cluster.
func parsePointerKey(cluster, key string) (partKey, bool) {
	rest, ok := strings.CutPrefix(key, pointerPrefix(cluster))
	if !ok {
		return partKey{}, false
	}
	topic, num, _ := strings.Cut(rest, "/")
	raw, err := hex.DecodeString(topic)
	var p int32
	if err != nil || len(raw) != 16 {
		return partKey{}, false
	}
	if _, err := fmt.Sscanf(num, "%d", &p); err != nil {
		return partKey{}, false
	}
	k := partKey{id: record.TopicID(raw), p: record.PartitionID(p)}
	return k, PointerKey(cluster, k.id, k.p) == key
}
