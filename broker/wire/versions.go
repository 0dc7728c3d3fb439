package wire

import (
	"sort"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// VersionRange says which versions of one API key are advertised, both ends
// included.
type VersionRange struct{ Key, Min, Max int16 }

// apiSpec is what the schema says of one API key. The generated table of them
// is in ascending order of keys.
type apiSpec struct {
	key, min, max int16
	advertise     int16 // the lowest version that ApiVersions names; below min it is refused all the same
	flexible      int16 // the first version whose header and body have tags (KIP-482)
	name          string
	decode        func(*reader, int16) kmsg.Request
}

const (
	keyProduce         = 0
	keyFetch           = 1
	keyOffsetCommit    = 8
	keyFindCoordinator = 10
	keyJoinGroup       = 11
	keyHeartbeat       = 12
	keyLeaveGroup      = 13
	keySyncGroup       = 14
	keyApiVersions     = 18
)

// byKey finds a key's place in the table, -1 for none.
var byKey = func() (t [128]int8) {
	for i := range t {
		t[i] = -1
	}
	for i := range apis {
		t[apis[i].key] = int8(i)
	}
	return t
}()

// lookup gives a key's table entry, nil when it is not answered.
func lookup(key int16) *apiSpec {
	if key < 0 || int(key) >= len(byKey) || byKey[key] < 0 {
		return nil
	}
	return &apis[byKey[key]]
}

// Supported lists what this broker answers, in ascending order of keys: the
// one version table. ApiVersions advertises it; any other key or version
// closes the connection. Produce is advertised from 0, because librdkafka
// takes a higher minimum as "no compression", but 0–2 are refused.
func Supported() []VersionRange {
	vs := make([]VersionRange, len(apis))
	for i := range apis {
		vs[i] = VersionRange{Key: apis[i].key, Min: apis[i].advertise, Max: apis[i].max}
	}
	sort.Slice(vs, func(i, j int) bool { return vs[i].Key < vs[j].Key })
	return vs
}

// UnsupportedApiVersionsReply is the answer to an ApiVersions request of a
// version that is not known: error 35 in the form of version 0, which every
// client can read, with a list of one, the versions of ApiVersions itself
// (KIP-511). With that a client asks again; given the whole list, some would
// take it as the answer and never learn the features that only later versions
// carry.
func UnsupportedApiVersionsReply() *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = kerr.UnsupportedVersion.Code
	api := lookup(keyApiVersions)
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = api.key, api.advertise, api.max
	resp.ApiKeys = append(resp.ApiKeys, k)
	return resp
}
