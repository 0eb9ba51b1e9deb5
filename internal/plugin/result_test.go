package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/stretchr/testify/require"
)

// fullResults are results with everything that their version knows.
var fullResults = map[string]string{
	"0.1.0": `{"cniVersion":"0.1.0","ip4":{"ip":"10.0.0.5/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]},"dns":{"nameservers":["10.0.0.53"]}}`,
	"0.2.0": `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"},"ip6":{"ip":"2001:db8::5/64","routes":[{"dst":"::/0"}]},"dns":{"domain":"a.example"}}`,
	"0.3.0": `{"cniVersion":"0.3.0","interfaces":[{"name":"eth0","mac":"aa:bb:cc:dd:ee:ff","sandbox":"/ns"}],"ips":[{"version":"4","address":"10.0.0.5/24","gateway":"10.0.0.1","interface":0}]}`,
	"0.3.1": `{"cniVersion":"0.3.1","ips":[{"version":"6","address":"2001:db8::5/64"}],"routes":[{"dst":"::/0","gw":"2001:db8::1"}],"dns":{"search":["a","b"],"options":["x"]}}`,
	"0.4.0": `{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],"ips":[{"version":"4","address":"10.0.0.5/24","interface":0}],"routes":[{"dst":"10.0.0.0/8"}]}`,
	"1.0.0": `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.5/24","interface":0}],"dns":{}}`,
	"1.1.0": `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400,"socketPath":"/s","pciID":"0"}],"ips":[{"address":"10.0.0.5/24","interface":7}],"routes":[{"dst":"::/0","mtu":1,"advmss":2,"priority":3,"table":4,"scope":5}]}`,
}

func TestCheckResultConvertsAsLibcniDoes(t *testing.T) {
	t.Parallel()
	for from, text := range fullResults {
		for to := range fullResults {
			got, err := CheckResult([]byte("\n "+text+" \n"), to)
			require.NoError(t, err, "%s to %s", from, to)
			if from == to {
				require.Equal(t, text, string(got), "the plugin's text goes on as it is")
				continue
			}
			res, err := create.Create(from, []byte(text))
			require.NoError(t, err)
			want, err := res.GetAsVersion(to)
			require.NoError(t, err)
			wantText, err := json.Marshal(want)
			require.NoError(t, err)
			require.JSONEq(t, string(wantText), string(got), "%s to %s", from, to)
		}
	}
}

func TestCheckResultKeeps(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, version, want string }{
		"what it does not know": {`{"cniVersion":"1.0.0","vendor":{"a":[null,1.10]},"ip4":"not of this version"}`, "1.0.0", ""},
		"code 0":                {`{"cniVersion":"1.0.0","code":0}`, "1.0.0", ""},
		"code null":             {`{"cniVersion":"1.0.0","code":null}`, "1.0.0", ""},
		"an address without its family": {
			`{"cniVersion":"0.4.0","ips":[{"address":"10.0.0.5/24"},{"address":"2001:db8::5/64"}]}`, "0.2.0",
			`{"cniVersion":"0.2.0","dns":{},"ip4":{"ip":"10.0.0.5/24"},"ip6":{"ip":"2001:db8::5/64"}}`,
		},
		"no version":        {`{"ips":[{"address":"10.0.0.5/24"}],"vendor":1}`, "1.0.0", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24"}],"vendor":1}`},
		"an empty version":  {`{"cniVersion":""}`, "0.4.0", `{"cniVersion":"0.4.0"}`},
		"a number":          {`{"cniVersion":1.0}`, "1.1.0", `{"cniVersion":"1.1.0"}`},
		"null":              {`{"cniVersion":null}`, "1.1.0", `{"cniVersion":"1.1.0"}`},
		"several":           {`{"CNIVersion":{"a":1},"cniVersion":[]}`, "1.1.0", `{"cniVersion":"1.1.0"}`},
		"nor the network's": {`{"ip4":{"ip":"10.0.0.5/24"}}`, "", `{"cniVersion":"0.1.0","ip4":{"ip":"10.0.0.5/24"}}`},
	} {
		got, err := CheckResult([]byte(tt.text), tt.version)
		require.NoError(t, err, name)
		if tt.want == "" {
			require.Equal(t, tt.text, string(got), name)
		} else {
			require.JSONEq(t, tt.want, string(got), name)
		}
		_, err = create.CreateFromBytes(got)
		require.NoError(t, err, name)
	}
}

func many(what, of string, n int) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0",%q:[%s]}`, what, strings.TrimSuffix(strings.Repeat(of+",", n), ","))
}

func TestCheckResultRefuses(t *testing.T) {
	t.Parallel()
	const route = `{"dst":"10.0.0.0/8"}`
	for name, tt := range map[string]struct {
		text string
		err  error
	}{
		"nothing":               {"", ErrNoOutput},
		"blanks":                {" \n\t", ErrNoOutput},
		"null":                  {"null", ErrBadOutput},
		"a list":                {`[{"cniVersion":"1.0.0"}]`, ErrBadOutput},
		"a string":              {`"1.0.0"`, ErrBadOutput},
		"a log alone":           {"it works\nalmost", ErrBadOutput},
		"a log before it":       {"log\n{}", ErrBadOutput},
		"a log on the line":     {`log {"cniVersion":"1.0.0"}`, ErrBadOutput},
		"half":                  {`{"cniVersion":"1.0.0","ips":[{"addr`, ErrBadOutput},
		"more after it":         {`{"cniVersion":"1.0.0"} done`, ErrBadOutput},
		"two objects":           {"{\"cniVersion\":\"1.0.0\"}\n{}", ErrBadOutput},
		"two versions":          {`{"cniVersion":"1.0.0","CNIVERSION":"0.2.0"}`, ErrBadOutput},
		"null IP":               {`{"cniVersion":"1.0.0","ips":[null]}`, ErrBadOutput},
		"null interface":        {`{"cniVersion":"0.4.0","interfaces":[null]}`, ErrBadOutput},
		"null route":            {`{"cniVersion":"1.0.0","routes":[null]}`, ErrBadOutput},
		"null route in 0.3":     {`{"cniVersion":"0.3.0","routes":[null]}`, ErrBadOutput},
		"null route before 0.3": {`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24","routes":[null]}}`, ErrBadOutput},
		"null to convert":       {`{"cniVersion":"1.1.0","ips":[null]}`, ErrBadOutput},
		"IP without address":    {`{"cniVersion":"1.0.0","ips":[{}]}`, ErrBadOutput},
		"the same in 0.4":       {`{"cniVersion":"0.4.0","ips":[{"version":"4"}]}`, ErrBadOutput},
		"the same before 0.3":   {`{"cniVersion":"0.2.0","ip6":{}}`, ErrBadOutput},
		"route without dst":     {`{"cniVersion":"1.0.0","routes":[{}]}`, ErrBadOutput},
		"bad address":           {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5"}]}`, ErrBadOutput},
		"bad gateway":           {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"x"}]}`, ErrBadOutput},
		"IPs as an object":      {`{"cniVersion":"1.0.0","ips":{}}`, ErrBadOutput},
		"index as a string":     {`{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","interface":"0"}]}`, ErrBadOutput},
		"ip4 as a string":       {`{"cniVersion":"0.2.0","ip4":"10.0.0.5/24"}`, ErrBadOutput},
		"DNS as a list":         {`{"cniVersion":"1.0.0","dns":[]}`, ErrBadOutput},
		"a code that is none":   {`{"cniVersion":"1.0.0","code":"7","msg":"x"}`, ErrBadOutput},
		"a negative code":       {`{"cniVersion":"1.0.0","code":-1,"msg":"x"}`, ErrBadOutput},
		"many interfaces":       {many("interfaces", `{"name":"a"}`, maxEntries+1), ErrBadOutput},
		"many addresses":        {many("ips", `{"address":"10.0.0.5/24"}`, maxEntries+1), ErrBadOutput},
		"many routes":           {many("routes", route, maxEntries+1), ErrBadOutput},
		"many routes in 0.4":    {strings.Replace(many("routes", route, maxEntries+1), "1.0.0", "0.4.0", 1), ErrBadOutput},
		"just allowed":          {many("routes", route, maxEntries), nil},
		"a later version":       {`{"cniVersion":"2.0.0"}`, ErrUnsupportedVersion},
		"no version":            {`{"cniVersion":"one"}`, ErrUnsupportedVersion},
	} {
		raw, err := CheckResult([]byte(tt.text), "1.0.0")
		if err == nil && tt.err != nil {
			// What libcni's decoder sees is left to it.
			_, err = create.Create("1.0.0", raw)
			require.Error(t, err, name)
			continue
		}
		require.ErrorIs(t, err, tt.err, name)
		require.Equal(t, tt.err == nil, raw != nil, name)
		if err != nil {
			require.Less(t, len(err.Error()), 2*maxQuote, name)
		}
	}
	for text, network := range map[string]string{
		`{"cniVersion":"1.0.0"}`: "0.2.0", // which cannot say that there is no address
		`{}`:                     "7.0.0",
	} {
		_, err := CheckResult([]byte(text), network)
		require.ErrorIs(t, err, ErrUnsupportedVersion, text)
	}
}

func TestCheckResultReturnsThePluginsError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]types.Error{
		`{"cniVersion":"1.0.0","code":11,"msg":"later","details":"much"}`: {Code: 11, Msg: "later", Details: "much"},
		`{"code":100,"msg":null,"details":{"not":"text"}}`:                {Code: 100, Details: `{"not":"text"}`},
		`{"cniVersion":"9.9.9","code":1,"msg":"version"}`:                 {Code: 1, Msg: "version"},
	} {
		_, err := CheckResult([]byte(text), "1.0.0")
		var got *types.Error
		require.ErrorAs(t, err, &got, text)
		require.Equal(t, want, *got)
		require.ErrorContains(t, err, fmt.Sprint(want.Code))
	}
}

func TestDecodeError(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]*types.Error{
		`{"code":7,"msg":"no"}`:                                  types.NewError(7, "no", ""),
		`{"code":7.0,"msg":"no","details":"d","cniVersion":"1"}`: types.NewError(7, "no", "d"),
		`{"code":7,"msg":"no","details":{"a":1}}`:                types.NewError(7, "no", `{"a":1}`),
		`{"code":100,"msg":"{\"code\":3,\"msg\":\"inner\"}"}`:    types.NewError(100, `{"code":3,"msg":"inner"}`, ""),
		`{"code":0,"msg":"fine"}`:                                types.NewError(0, "fine", ""),
		`{"code":7}`:                                             types.NewError(7, "", ""),
		`{"code":7,"msg":["no"]}`:                                types.NewError(7, `["no"]`, ""),
		`{"msg":"no"}`:                                           nil,
		`{"code":"7","msg":"no"}`:                                nil,
		`{"code":-1,"msg":"no"}`:                                 nil,
		`{"code":1.5,"msg":"no"}`:                                nil,
		`{"code":1e300,"msg":"no"}`:                              nil,
		`[{"code":7,"msg":"no"}]`:                                nil,
		`{"code":7,"msg":"n`:                                     nil,
		`{"code":7} {}`:                                          nil,
		``:                                                       nil,
		`null`:                                                   nil,
	} {
		require.Equal(t, want, decodeError([]byte(in)), in)
	}
	long := decodeError([]byte(`{"code":7,"msg":"` + strings.Repeat("m", 1<<20) + `"}`))
	require.Less(t, len(long.Msg), maxErrorText+10)
	require.EqualError(t, withCode(&types.Error{Code: 7}), "code 7, without a message")
}

func TestDecodeVersions(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		`{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}`:       {"0.4.0", "1.0.0"},
		` {"supportedVersions":[null,"","1.0.0","1.0.0"]} `:                  {"1.0.0"},
		`{"supportedVersions":["1.0.0","` + strings.Repeat("1", 100) + `"]}`: {"1.0.0"},
		`{"cniVersion":"0.2.0"}`:                                             {"0.1.0", "0.2.0"},
	} {
		got, err := DecodeVersions([]byte(in))
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, want := range map[string]error{
		" ": ErrNoOutput, "{}": ErrBadOutput, "[]": ErrBadOutput, `{"cniVersion":"1.0.0"}`: ErrBadOutput,
		"log\n" + `{"supportedVersions":["1.0.0"]}`: ErrBadOutput, `{"supportedVersions":"1.0.0"}`: ErrBadOutput,
	} {
		_, err := DecodeVersions([]byte(in))
		require.ErrorIs(t, err, want, in)
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	chunk := make([]byte, 1000)
	full := 0
	c := capture{full: func() { full++ }}
	for range maxStdout / len(chunk) {
		_, _ = c.Write(chunk)
	}
	require.Len(t, c.buf, maxStdout/len(chunk)*len(chunk))
	require.Zero(t, full)
	for range 3 {
		_, _ = c.Write(chunk)
	}
	require.True(t, c.over)
	require.Empty(t, c.buf)
	require.Equal(t, 1, full)

	var e tail
	for range 1000 {
		_, _ = e.Write(chunk)
	}
	_, _ = e.Write([]byte("end"))
	require.Len(t, e.String(), maxStderr)
	require.True(t, strings.HasSuffix(e.String(), "end"))
	require.LessOrEqual(t, cap(e.buf), 4*maxStderr)
}

func FuzzCheckResult(f *testing.F) {
	for version, text := range fullResults {
		f.Add([]byte(text), version)
		f.Add([]byte(text), "0.2.0")
	}
	for _, text := range []string{
		`{"cniVersion":"1.0.0","ips":[null],"interfaces":[null],"routes":[null]}`, `{"code":7,"msg":"x"}`, `{"cniVersion":3}`, `null`,
		`{"cniVersion":"0.2.0","ip4":null,"ip6":{"ip":"::/0","routes":[null]}}`, "{", `{"IPS":[{"ADDRESS":"1.2.3.4/5"}]}`,
		`{"cniVersion":"1.0.0","ips":[{"address":"::ffff:1.2.3.4/90"}],"routes":[{"dst":"::ffff:1.2.3.4/90"}]}`,
	} {
		f.Add([]byte(text), "1.1.0")
	}
	f.Fuzz(func(t *testing.T, stdout []byte, cniVersion string) {
		raw, err := CheckResult(stdout, cniVersion)
		if err != nil {
			require.Nil(t, raw)
			var own *types.Error
			require.True(t, errors.As(err, &own) || errors.Is(err, ErrNoOutput) || errors.Is(err, ErrBadOutput) ||
				errors.Is(err, ErrUnsupportedVersion), "%v", err)
			return
		}
		if cniVersion == "" {
			cniVersion = "0.1.0"
		}
		// What goes on is what libcni, and so the next plugin, reads and converts.
		result, err := create.Create(cniVersion, raw)
		if err != nil {
			return // which libcni says, and does not panic over
		}
		require.Equal(t, cniVersion, result.Version())
		for to := range fullResults {
			converted, err := result.GetAsVersion(to)
			if err != nil {
				continue // 0.2.0 cannot say that there is no address
			}
			text, err := json.Marshal(converted)
			require.NoError(t, err)
			_, err = create.Create(to, text)
			require.NoError(t, err)
		}
		again, err := CheckResult(raw, cniVersion)
		require.NoError(t, err)
		require.Equal(t, raw, again)
	})
}

func FuzzDecodeError(f *testing.F) {
	for _, seed := range []string{
		`{"code":7,"msg":"no","details":"d"}`, `{{{{`, `{"code":1e999}`, `{"a":`, `null`, `{"code":7,"msg":"\ud800"}`, "\x00{",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		e := decodeError(in)
		if e == nil {
			return
		}
		require.True(t, json.Valid(in))
		require.LessOrEqual(t, len(e.Msg), maxErrorText+3)
		require.LessOrEqual(t, len(e.Details), maxErrorText+3)
		again, err := json.Marshal(e)
		require.NoError(t, err)
		require.Equal(t, e.Code, decodeError(again).Code)
	})
}

func FuzzDecodeVersions(f *testing.F) {
	for _, seed := range []string{`{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}`, `{"supportedVersions":[null]}`, `{"cniVersion":"0.2.0"}`, "x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		versions, err := DecodeVersions(in)
		require.Equal(t, err == nil, len(versions) > 0)
		require.LessOrEqual(t, len(versions), maxVersions)
		for i, v := range versions {
			require.NotEmpty(t, v)
			require.LessOrEqual(t, len(v), longestVersion)
			require.Equal(t, i, slices.Index(versions, v))
		}
	})
}
