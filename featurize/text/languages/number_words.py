"""Words that stand between figures, or beside them, in languages whose numerals espeak-ng reads.

Forms are separated by a bar: of one, of several; or of one, of two to four, of five and more.
"""

from __future__ import annotations

import re
from functools import cache


def _by_language(table: str) -> dict[str, str]:
    """Return the text behind the code of each language, which begins a line."""
    entries = re.findall(r"^(\w\w): (.*(?:\n +.*)*)", table, re.MULTILINE)
    return {code: re.sub(r"\n +", " ", text).replace("| ", "|").replace("|/ ", "|") for code, text in entries}


_UNITS = "km m cm mm kg g l € $ £ km² m²".split()
_WORDS = _by_language("""
de: time={h} Uhr {m}; hours={h} Uhr; hour=Uhr; h1=ein; minus=minus; to=bis; ratio=zu; over=durch; point=Punkt;
    units=Kilometer, Meter, Zentimeter, Millimeter, Kilogramm, Gramm, Liter, Euro, Dollar, Pfund, Quadratkilometer,
    Quadratmeter;m³=Kubikmeter; °C=Grad Celsius; °=Grad; /h=pro Stunde; ¥=Yen; ±=plus minus; ²=hoch zwei; ³=hoch drei;
    ≈=ungefähr; ≠=ungleich; one=ein
fr: time={h} heures {m}; hours={h} heures; hour=heures|heure|h; h1=une; time1=une heure {m}; hours1=une heure;
    h21=vingt et une; minus=moins; to=à; ratio=à; over=sur; point=point; units=kilomètre|kilomètres, mètre|mètres,
    centimètre|centimètres, millimètre|millimètres, kilogramme|kilogrammes, gramme|grammes, litre|litres, euro|euros,
    dollar|dollars, livre|livres, kilomètre carré|kilomètres carrés, mètre carré|mètres carrés; m³=mètre cube|mètres
    cubes; °C=degré Celsius|degrés Celsius; °=degré|degrés; /h=par heure; ¥=yen|yens; ±=plus ou moins; ²=au carré;
    ³=au cube; ≥=supérieur ou égal à; ≤=inférieur ou égal à; ≈=environ; ≠=différent de; ==égale; &=et; #=numéro
es: time={h} y {m}; hours={h}; hour=horas|hora|h; h1=una; h21=veintiuna; minus=menos; to=a; ratio=a; over=sobre;
    point=punto; units=kilómetro|kilómetros, metro|metros, centímetro|centímetros, milímetro|milímetros,
    kilogramo|kilogramos, gramo|gramos, litro|litros, euro|euros, dólar|dólares, libra|libras, kilómetro
    cuadrado|kilómetros cuadrados, metro cuadrado|metros cuadrados; m³=metro cúbico|metros cúbicos; °C=grado
    Celsius|grados Celsius; °=grado|grados; /h=por hora; ¥=yen|yenes; ±=más menos; ×=por; ÷=entre; ²=al cuadrado; ³=al
    cubo; ≥=mayor o igual que; ≤=menor o igual que; ≈=aproximadamente; ≠=distinto de; &=y; one=un
it: time={h} e {m}; hours={h}; hour=ore|h; h1=una; minus=meno; to=a; ratio=a; over=su; point=punto;
    units=chilometro|chilometri, metro|metri, centimetro|centimetri, millimetro|millimetri, chilogrammo|chilogrammi,
    grammo|grammi, litro|litri, euro, dollaro|dollari, sterlina|sterline, chilometro quadrato|chilometri quadrati,
    metro quadrato|metri quadrati; m³=metro cubo|metri cubi; °C=grado Celsius|gradi Celsius; °=grado|gradi;
    /h=all'ora; ¥=yen; ±=più o meno; ×=per; ÷=diviso; ²=al quadrato; ³=al cubo; ≈=circa; ≠=diverso da; &=e; one=un
pt: time={h} e {m}; hours={h} horas; hour=horas|hora|h; h1=uma; hours1=uma hora; h2=duas; h21=vinte e uma; h22=vinte e
    duas; minus=menos; to=a; ratio=para; score=a; over=sobre; #=número; point=ponto; units=quilômetro|quilômetros,
    metro|metros, centímetro|centímetros, milímetro|milímetros, quilo|quilos, grama|gramas, litro|litros, euro|euros,
    dólar|dólares, libra|libras, quilômetro quadrado|quilômetros quadrados, metro quadrado|metros quadrados; m³=metro
    cúbico|metros cúbicos; °C=grau Celsius|graus Celsius; °=grau|graus; /h=por hora; ¥=iene|ienes; R$=real|reais;
    ±=mais ou menos; ²=ao quadrado; ³=ao cubo; ≥=maior ou igual a; ≤=menor ou igual a; ≈=aproximadamente; ≠=diferente
    de
nl: time={h} uur {m}; hours={h} uur; hour=uur|u; minus=min; to=tot; ratio=op; score= ; over=gedeeld door; point=punt;
    units=kilometer, meter, centimeter, millimeter, kilogram, gram, liter, euro, dollar, pond, vierkante kilometer,
    vierkante meter; m³=kubieke meter; °C=graden Celsius; °=graden; /h=per uur; ¥=yen; ±=plus min; ²=kwadraat; ³=tot
    de derde; ≈=ongeveer; ≠=ongelijk aan
pl: time={h} {m}; hours={h}; hour=godziny|godzina|godz.; minus=minus; to=do; ratio=do; over=przez; point=kropka;
    units=kilometr|kilometry|kilometrów, metr|metry|metrów, centymetr|centymetry|centymetrów,
    milimetr|milimetry|milimetrów, kilogram|kilogramy|kilogramów, gram|gramy|gramów, litr|litry|litrów, euro,
    dolar|dolary|dolarów, funt|funty|funtów, kilometr kwadratowy|kilometry kwadratowe|kilometrów kwadratowych, metr
    kwadratowy|metry kwadratowe|metrów kwadratowych; m³=metr sześcienny|metry sześcienne|metrów sześciennych;
    zł=złoty|złote|złotych; °C=stopień Celsjusza|stopnie Celsjusza|stopni Celsjusza; °=stopień|stopnie|stopni; /h=na
    godzinę; ¥=jen|jeny|jenów; ±=plus minus; ²=do kwadratu; ³=do sześcianu; ≥=większe lub równe; ≤=mniejsze lub równe;
    ≈=około; ≠=różne od; &=i
cs: time={h} {m}; hours={h} hodin; hour=hodin|hod.; minus=mínus; to=až; ratio=ku; over=lomeno; point=tečka;
    units=kilometr|kilometry|kilometrů, metr|metry|metrů, centimetr|centimetry|centimetrů,
    milimetr|milimetry|milimetrů, kilogram|kilogramy|kilogramů, gram|gramy|gramů, litr|litry|litrů, euro|eura|eur,
    dolar|dolary|dolarů, libra|libry|liber, kilometr čtvereční|kilometry čtvereční|kilometrů čtverečních, metr
    čtvereční|metry čtvereční|metrů čtverečních; m³=metr krychlový|metry krychlové|metrů krychlových;
    Kč=koruna|koruny|korun; °C=stupeň Celsia|stupně Celsia|stupňů Celsia; °=stupeň|stupně|stupňů; /h=za hodinu;
    ¥=jen|jeny|jenů; ±=plus minus; ²=na druhou; ³=na třetí; ≈=přibližně; ≠=nerovná se; &=a
ru: time={h} {m}; hours={h} час|{h} часа|{h} часов; hour=часов|часа|час|ч; minus=минус; to=-; ratio=к; score= ;
    over=дробь; point=точка; units=километр|километра|километров, метр|метра|метров, сантиметр|сантиметра|сантиметров,
    миллиметр|миллиметра|миллиметров, килограмм|килограмма|килограммов, грамм|грамма|граммов, литр|литра|литров, евро,
    доллар|доллара|долларов, фунт|фунта|фунтов, квадратный километр|квадратных километра|квадратных километров,
    квадратный метр|квадратных метра|квадратных метров; m³=кубический метр|кубических метра|кубических метров;
    ₽=рубль|рубля|рублей; °C=градус Цельсия|градуса Цельсия|градусов Цельсия; °=градус|градуса|градусов; /h=в час;
    ¥=иена|иены|иен; ±=плюс-минус; ×=умножить на; ÷=разделить на; ²=в квадрате; ³=в кубе; ≥=больше или равно; ≤=меньше
    или равно; ≈=примерно; ≠=не равно; &=и
uk: time={h} {m}; hours={h} година|{h} години|{h} годин; hour=годин|години|година|год; minus=мінус; to=-; ratio=до;
    score= ; over=дріб; point=крапка; units=кілометр|кілометри|кілометрів, метр|метри|метрів,
    сантиметр|сантиметри|сантиметрів, міліметр|міліметри|міліметрів, кілограм|кілограми|кілограмів, грам|грами|грамів,
    літр|літри|літрів, євро, долар|долари|доларів, фунт|фунти|фунтів, квадратний кілометр|квадратні
    кілометри|квадратних кілометрів, квадратний метр|квадратні метри|квадратних метрів; m³=кубічний метр|кубічні
    метри|кубічних метрів; ₴=гривня|гривні|гривень; °C=градус Цельсія|градуси Цельсія|градусів Цельсія;
    °=градус|градуси|градусів; /h=на годину; ¥=єна|єни|єн; ±=плюс-мінус; ×=помножити на; ÷=поділити на; ²=у квадраті;
    ³=у кубі; ≥=більше або дорівнює; ≤=менше або дорівнює; ≈=приблизно; ≠=не дорівнює; &=і
sv: one=en; kr=krona|kronor; time={h} {m}; hours={h}; minus=minus; to=till; ratio=till; score= ; over=genom;
    point=punkt; comma=komma; units=kilometer, meter, centimeter, millimeter, kilo, gram, liter, euro, dollar, pund,
    kvadratkilometer, kvadratmeter; m³=kubikmeter; °C=grad Celsius|grader Celsius; °=grad|grader; /h=i timmen; ¥=yen;
    ±=plus minus; ×=gånger; ÷=delat med; ²=i kvadrat; ³=i kubik; ≥=större än eller lika med; ≤=mindre än eller lika med;
    ≈=ungefär; ≠=inte lika med; ==är lika med; #=nummer
da: one=en; kr=krone|kroner; time={h} {m}; hours={h}; minus=minus; to=til; ratio=til; score= ; over=over; point=punktum;
    units=kilometer, meter, centimeter, millimeter, kilo, gram, liter, euro, dollar, pund, kvadratkilometer,
    kvadratmeter; m³=kubikmeter; °C=grad celsius|grader celsius; °=grad|grader; /h=i timen; ¥=yen; ±=plus minus; ²=i
    anden; ³=i tredje; ≥=større end eller lig med; ≤=mindre end eller lig med; ≈=cirka; ≠=forskellig fra
nb: one=en; kr=krone|kroner; time={h} {m}; hours={h}; minus=minus; to=til; ratio=til; score= ; over=delt på;
    point=punktum; units=kilometer, meter, centimeter, millimeter, kilo, gram, liter, euro, dollar, pund,
    kvadratkilometer, kvadratmeter; m³=kubikkmeter; °C=grad celsius|grader celsius; °=grad|grader; /h=i timen; ¥=yen;
    ±=pluss minus;
    ×=ganger; ÷=delt på; ²=i andre; ³=i tredje; ≥=større enn eller lik; ≤=mindre enn eller lik; ≈=omtrent; ≠=ikke
    lik;==er lik; #=nummer; &=og
fi: time={h} {m}; hours={h}; minus=miinus; to=viiva; ratio=per; score= ; over=per; point=piste;
    units=kilometri|kilometriä, metri|metriä, senttimetri|senttimetriä, millimetri|millimetriä, kilo|kiloa,
    gramma|grammaa, litra|litraa, euro|euroa, dollari|dollaria, punta|puntaa, neliökilometri|neliökilometriä,
    neliömetri|neliömetriä; m³=kuutiometri|kuutiometriä; °C=celsiusaste|celsiusastetta; °=aste|astetta; /h=tunnissa;
    ¥=jeni|jeniä; ±=plus miinus; ×=kertaa; ÷=jaettuna; ²=toiseen; ³=kolmanteen; ≈=noin; ≠=eri suuri kuin; ≥=suurempi
    tai yhtä suuri kuin; ≤=pienempi tai yhtä suuri kuin
tr: time={h} {m}; hours={h}; minus=eksi; to=ila; ratio=bölü; score= ; over=bölü; point=nokta; units=kilometre, metre,
    santimetre, milimetre, kilogram, gram, litre, avro, dolar, sterlin, kilometrekare, metrekare; m³=metreküp; ₺=lira;
    °C=santigrat derece; °=derece; /h=saatte; ¥=yen; ±=artı eksi; ×=çarpı; ÷=bölü; ²=kare; ³=küp; ≥=büyük eşit;
    ≤=küçük eşit; ≈=yaklaşık; ≠=eşit değil; @=et; #=numara
ro: time={h} și {m}; hours={h}; minus=minus; to=până la; ratio=la; over=supra; point=punct; units=kilometru|kilometri,
    metru|metri, centimetru|centimetri, milimetru|milimetri, kilogram|kilograme, gram|grame, litru|litri, euro,
    dolar|dolari, liră|lire, kilometru pătrat|kilometri pătrați, metru pătrat|metri pătrați; m³=metru cub|metri cubi;
    °C=grad Celsius|grade Celsius; °=grad|grade; /h=pe oră; ¥=yen|yeni; ±=plus minus; ×=ori; ÷=împărțit la; ²=la
    pătrat; ³=la cub; ≥=mai mare sau egal cu; ≤=mai mic sau egal cu; ≈=aproximativ; ≠=diferit de; &=și; one=un
hu: time={h} óra {m} perc; hours={h} óra; hour=óra; minus=mínusz; to= ; ratio=az; score= ; over=per; point=pont;
    units=kilométer, méter, centiméter, milliméter, kilogramm, gramm, liter, euró, dollár, font, négyzetkilométer,
    négyzetméter; m³=köbméter; Ft=forint; °C=Celsius-fok; °=fok; /h=óránként; ¥=jen; ±=plusz-mínusz; ²=a négyzeten;
    ³=a köbön; ≥=nagyobb vagy egyenlő; ≤=kisebb vagy egyenlő; ≈=körülbelül; ≠=nem egyenlő
el: time={h} και {m}; hours={h}; h1=μία; h3=τρεις; h4=τέσσερις; h13=δεκατρείς; h14=δεκατέσσερις; h21=είκοσι μία;
    h23=είκοσι τρεις; minus=μείον; to=έως; ratio=προς; score= ; over=προς; point=τελεία; units=χιλιόμετρο|χιλιόμετρα,
    μέτρο|μέτρα, εκατοστό|εκατοστά, χιλιοστό|χιλιοστά, κιλό|κιλά, γραμμάριο|γραμμάρια, λίτρο|λίτρα, ευρώ,
    δολάριο|δολάρια, λίρα|λίρες, τετραγωνικό χιλιόμετρο|τετραγωνικά χιλιόμετρα, τετραγωνικό μέτρο|τετραγωνικά μέτρα;
    m³=κυβικό μέτρο|κυβικά μέτρα; °C=βαθμός Κελσίου|βαθμοί Κελσίου; °=βαθμός|βαθμοί; /h=την ώρα; ¥=γιεν; ±=συν πλην;
    +=συν; ×=επί; ÷=διά; ²=στο τετράγωνο; ³=στον κύβο; ≥=μεγαλύτερο ή ίσο; ≤=μικρότερο ή ίσο; ≈=περίπου; ≠=διάφορο;
    &=και; @=παπάκι; #=αριθμός
hi: time={h} बजकर {m} मिनट; hours={h} बजे; hour=बजे; minus=माइनस; to=से; ratio=अनुपात; score= ; over=बटा;
    point=दशमलव;comma=दशमलव; units=किलोमीटर, मीटर, सेंटीमीटर, मिलीमीटर, किलोग्राम, ग्राम, लीटर, यूरो, डॉलर, पाउंड,
    वर्ग किलोमीटर, वर्ग मीटर; m³=घन मीटर; ₹=रुपये; °C=डिग्री सेल्सियस; °=डिग्री; /h=प्रति घंटा; ¥=येन; ±=प्लस माइनस;
    ×=गुणा; ÷=भाग; ²=का वर्ग; ³=का घन; ≈=लगभग; ≠=बराबर नहीं; ≥=बड़ा या बराबर; ≤=छोटा या बराबर; &=और; @=एट; #=नंबर
ar: time={h} و {m} دقيقة; hours={h}; minus=ناقص; to=إلى; ratio=إلى; score= ; over=على; point=فاصلة; units=كيلومتر,
    متر, سنتيمتر, مليمتر, كيلوغرام, غرام, لتر, يورو, دولار, جنيه, كيلومتر مربع, متر مربع; m³=متر مكعب; °C=درجة مئوية;
    °=درجة; /h=في الساعة; ¥=ين; %=بالمئة; ٪=بالمئة; ±=زائد أو ناقص; +=زائد; ×=ضرب; ÷=قسمة; ==يساوي; ²=تربيع; ³=تكعيب;
    ≈=تقريبا; ≠=لا يساوي; ≥=أكبر أو يساوي; ≤=أصغر أو يساوي; &=و; @=آت; #=رقم
vi: time={h} giờ {m} phút; hours={h} giờ; hour=giờ|h; minus=âm; to=đến; ratio=trên; score= ; over=phần; point=chấm;
    units=ki lô mét, mét, xen ti mét, mi li mét, ki lô gam, gam, lít, ơ rô, đô la, bảng, ki lô mét vuông, mét vuông;
    m³=mét khối; ₫=đồng; °C=độ xê; °=độ; /h=trên giờ; ¥=yên; ±=cộng trừ; ×=nhân; ÷=chia; ²=bình phương; ³=lập phương;
    ≈=xấp xỉ; ≠=khác; ≥=lớn hơn hoặc bằng; ≤=nhỏ hơn hoặc bằng
id: time={h} lewat {m}; hours={h}; minus=minus; to=sampai; ratio=banding; score= ; over=per; point=titik;
    units=kilometer, meter, sentimeter, milimeter, kilogram, gram, liter, euro, dolar, pound, kilometer persegi, meter
    persegi; m³=meter kubik; Rp=rupiah; °C=derajat Celsius; °=derajat; /h=per jam; ¥=yen; ±=kurang lebih; ×=kali;
    ÷=bagi; ²=kuadrat; ³=kubik; ≈=kira-kira; ≠=tidak sama dengan; ≥=lebih besar atau sama dengan; ≤=lebih kecil atau
    sama dengan
""")
_INCHES = _by_language("""
de: Zoll
fr: pouce|pouces
es: pulgada|pulgadas
it: pollice|pollici
pt: polegada|polegadas
nl: inch
pl: cal|cale|cali
cs: palec|palce|palců
ru: дюйм|дюйма|дюймов
uk: дюйм|дюйми|дюймів
sv: tum
da: tomme|tommer
nb: tomme|tommer
fi: tuuma|tuumaa
tr: inç
ro: țol|țoli
hu: col
el: ίντσα|ίντσες
hi: इंच
ar: بوصة
vi: inch
id: inci
""")
MONTHS = _by_language("""
de: Januar Februar März April Mai Juni Juli August September Oktober November Dezember
fr: janvier février mars avril mai juin juillet août septembre octobre novembre décembre
es: enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre
it: gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre
pt: janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro
nl: januari februari maart april mei juni juli augustus september oktober november december
pl: stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia
cs: ledna února března dubna května června července srpna září října listopadu prosince
ru: января февраля марта апреля мая июня июля августа сентября октября ноября декабря
uk: січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня
sv: januari februari mars april maj juni juli augusti september oktober november december
da: januar februar marts april maj juni juli august september oktober november december
nb: januar februar mars april mai juni juli august september oktober november desember
fi: tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta syyskuuta lokakuuta
    marraskuuta joulukuuta
tr: Ocak Şubat Mart Nisan Mayıs Haziran Temmuz Ağustos Eylül Ekim Kasım Aralık
ro: ianuarie februarie martie aprilie mai iunie iulie august septembrie octombrie noiembrie decembrie
hu: január február március április május június július augusztus szeptember október november december
el: Ιανουαρίου Φεβρουαρίου Μαρτίου Απριλίου Μαΐου Ιουνίου Ιουλίου Αυγούστου Σεπτεμβρίου Οκτωβρίου Νοεμβρίου Δεκεμβρίου
hi: जनवरी फ़रवरी मार्च अप्रैल मई जून जुलाई अगस्त सितंबर अक्टूबर नवंबर दिसंबर
ar: يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر
id: Januari Februari Maret April Mei Juni Juli Agustus September Oktober November Desember
""")
_ORDINALS = _by_language("""
de: erste zweite dritte vierte fünfte sechste siebte achte neunte zehnte elfte zwölfte dreizehnte vierzehnte
    fünfzehnte sechzehnte siebzehnte achtzehnte neunzehnte zwanzigste einundzwanzigste zweiundzwanzigste
    dreiundzwanzigste vierundzwanzigste fünfundzwanzigste sechsundzwanzigste siebenundzwanzigste achtundzwanzigste
    neunundzwanzigste dreißigste einunddreißigste
da: første anden tredje fjerde femte sjette syvende ottende niende tiende ellevte tolvte trettende fjortende femtende
    sekstende syttende attende nittende tyvende enogtyvende toogtyvende treogtyvende fireogtyvende femogtyvende
    seksogtyvende syvogtyvende otteogtyvende niogtyvende tredivte enogtredivte
nb: første andre tredje fjerde femte sjette syvende åttende niende tiende ellevte tolvte trettende fjortende femtende
    sekstende syttende attende nittende tjuende tjueførste tjueandre tjuetredje tjuefjerde tjuefemte tjuesjette
    tjuesyvende tjueåttende tjueniende trettiende trettiførste
sv: första andra tredje fjärde femte sjätte sjunde åttonde nionde tionde elfte tolfte trettonde fjortonde femtonde
    sextonde sjuttonde artonde nittonde tjugonde tjugoförsta tjugoandra tjugotredje tjugofjärde tjugofemte tjugosjätte
    tjugosjunde tjugoåttonde tjugonionde trettionde trettioförsta
pl: pierwszego drugiego trzeciego czwartego piątego szóstego siódmego ósmego dziewiątego dziesiątego jedenastego
    dwunastego trzynastego czternastego piętnastego szesnastego siedemnastego osiemnastego dziewiętnastego
    dwudziestego dwudziestego_pierwszego dwudziestego_drugiego dwudziestego_trzeciego dwudziestego_czwartego
    dwudziestego_piątego dwudziestego_szóstego dwudziestego_siódmego dwudziestego_ósmego dwudziestego_dziewiątego
    trzydziestego trzydziestego_pierwszego
cs: prvního druhého třetího čtvrtého pátého šestého sedmého osmého devátého desátého jedenáctého dvanáctého třináctého
    čtrnáctého patnáctého šestnáctého sedmnáctého osmnáctého devatenáctého dvacátého dvacátého_prvního
    dvacátého_druhého dvacátého_třetího dvacátého_čtvrtého dvacátého_pátého dvacátého_šestého dvacátého_sedmého
    dvacátého_osmého dvacátého_devátého třicátého třicátého_prvního
ru: первого второго третьего четвёртого пятого шестого седьмого восьмого девятого десятого одиннадцатого двенадцатого
    тринадцатого четырнадцатого пятнадцатого шестнадцатого семнадцатого восемнадцатого девятнадцатого двадцатого
    двадцать_первого двадцать_второго двадцать_третьего двадцать_четвёртого двадцать_пятого двадцать_шестого
    двадцать_седьмого двадцать_восьмого двадцать_девятого тридцатого тридцать_первого
uk: першого другого третього четвертого п'ятого шостого сьомого восьмого дев'ятого десятого одинадцятого дванадцятого
    тринадцятого чотирнадцятого п'ятнадцятого шістнадцятого сімнадцятого вісімнадцятого дев'ятнадцятого двадцятого
    двадцять_першого двадцять_другого двадцять_третього двадцять_четвертого двадцять_п'ятого двадцять_шостого
    двадцять_сьомого двадцять_восьмого двадцять_дев'ятого тридцятого тридцять_першого
fi: ensimmäinen toinen kolmas neljäs viides kuudes seitsemäs kahdeksas yhdeksäs kymmenes yhdestoista kahdestoista
    kolmastoista neljästoista viidestoista kuudestoista seitsemästoista kahdeksastoista yhdeksästoista kahdeskymmenes
    kahdeskymmenesensimmäinen kahdeskymmenestoinen kahdeskymmeneskolmas kahdeskymmenesneljäs kahdeskymmenesviides
    kahdeskymmeneskuudes kahdeskymmenesseitsemäs kahdeskymmeneskahdeksas kahdeskymmenesyhdeksäs kolmaskymmenes
    kolmaskymmenesensimmäinen
hu: elseje másodika harmadika negyedike ötödike hatodika hetedike nyolcadika kilencedike tizedike tizenegyedike
    tizenkettedike tizenharmadika tizennegyedike tizenötödike tizenhatodika tizenhetedike tizennyolcadika
    tizenkilencedike huszadika huszonegyedike huszonkettedike huszonharmadika huszonnegyedike huszonötödike
    huszonhatodika huszonhetedike huszonnyolcadika huszonkilencedike harmincadika harmincegyedike
""")
"""Days of a month, from the first to the thirty-first, in the case that stands before the name of a month."""
KINGS = _by_language("""
es: primero segundo tercero cuarto quinto sexto séptimo octavo noveno décimo
pt: primeiro segundo terceiro quarto quinto sexto sétimo oitavo nono décimo
nl: eerste tweede derde vierde vijfde zesde zevende achtste negende tiende elfde twaalfde dertiende veertiende
    vijftiende zestiende
""")
"""Ordinal numbers of kings where they differ from those of days."""
FRACTIONS = _by_language("""
de: halb Drittel Viertel Fünftel Sechstel Siebtel Achtel Neuntel Zehntel
fr: demi|demis tiers quart|quarts cinquième|cinquièmes sixième|sixièmes septième|septièmes huitième|huitièmes
    neuvième|neuvièmes dixième|dixièmes
es: medio|medios tercio|tercios cuarto|cuartos quinto|quintos sexto|sextos séptimo|séptimos octavo|octavos
    noveno|novenos décimo|décimos
it: mezzo|mezzi terzo|terzi quarto|quarti quinto|quinti sesto|sesti settimo|settimi ottavo|ottavi nono|noni
    decimo|decimi
pt: meio|meios terço|terços quarto|quartos quinto|quintos sexto|sextos sétimo|sétimos oitavo|oitavos nono|nonos
    décimo|décimos
nl: half derde vierde vijfde zesde zevende achtste negende tiende
sv: halv tredjedel|tredjedelar fjärdedel|fjärdedelar femtedel|femtedelar sjättedel|sjättedelar sjundedel|sjundedelar
    åttondel|åttondelar niondel|niondelar tiondel|tiondelar
da: halv tredjedel|tredjedele fjerdedel|fjerdedele femtedel|femtedele sjettedel|sjettedele syvendedel|syvendedele
    ottendedel|ottendedele niendedel|niendedele tiendedel|tiendedele
nb: halv tredjedel|tredjedeler fjerdedel|fjerdedeler femtedel|femtedeler sjettedel|sjettedeler sjuendedel|sjuendedeler
    åttendedel|åttendedeler niendedel|niendedeler tiendedel|tiendedeler
fi: puoli|puolta kolmasosa|kolmasosaa neljäsosa|neljäsosaa viidesosa|viidesosaa kuudesosa|kuudesosaa
    seitsemäsosa|seitsemäsosaa kahdeksasosa|kahdeksasosaa yhdeksäsosa|yhdeksäsosaa kymmenesosa|kymmenesosaa
ru: вторая|вторых третья|третьих четвёртая|четвёртых пятая|пятых шестая|шестых седьмая|седьмых восьмая|восьмых
    девятая|девятых десятая|десятых
pl: druga|drugie trzecia|trzecie czwarta|czwarte piąta|piąte szósta|szóste siódma|siódme ósma|ósme dziewiąta|dziewiąte
    dziesiąta|dziesiąte
uk: друга|другі третя|треті четверта|четверті п'ята|п'яті шоста|шості сьома|сьомі восьма|восьмі дев'ята|дев'яті
    десята|десяті
cs: polovina|poloviny třetina|třetiny čtvrtina|čtvrtiny pětina|pětiny šestina|šestiny sedmina|sedminy osmina|osminy
    devítina|devítiny desetina|desetiny
""")
"""Names of a half to a tenth: of one, of several."""
HALVES = _by_language("""
de: ein halb
nl: een half
sv: en halv
da: en halv
nb: en halv
fi: puoli
fr: un demi
es: un medio
it: un mezzo
pt: um meio
ru: одна вторая
pl: jedna druga
uk: одна друга
cs: jedna polovina
""")
FEMININE = {
    "pl": ("jedna", "dwie"), "cs": ("jedna", "dvě"), "ru": ("одна", "две"), "uk": ("одна", "дві"),
}  # fmt: skip
"""One and two before a word of that gender."""


@cache
def words(language: str) -> dict[str, str]:
    """Return the words of a language by what they stand for: a sign, a unit, or the name of a rule."""
    found = {}
    for entry in filter(None, map(str.strip, _WORDS.get(language, "").split(";"))):
        key, _, word = entry.partition("=") if not entry.startswith("==") else ("=", "", entry[2:])
        found[key] = word
    units = dict(zip(_UNITS, found.pop("units", "").split(", "), strict=False))
    return found | units | {"″": _INCHES[language]} if found else {}


@cache
def ordinals(language: str) -> list[str]:
    """Return the words of the days of a month, or nothing where they are cardinal numbers."""
    return [word.replace("_", " ") for word in _ORDINALS.get(language, "").split()]


def form(word: str, count: str, language: str) -> str:
    """Return the form of a word for a number, written in figures."""
    forms = word.split("|")
    if len(forms) == 3 and count.isdigit():
        last, teen = int(count[-1]), count[-2:-1] == "1"
        is_one = count == "1" if language in ("pl", "cs") else last == 1 and not teen
        few = (1 < int(count[-4:]) < 5) if language == "cs" and len(count) < 2 else 1 < last < 5 and not teen
        return forms[0] if is_one else forms[1] if few and (language != "cs" or len(count) == 1) else forms[2]
    return forms[0] if count == "1" else forms[min(1, len(forms) - 1)]
